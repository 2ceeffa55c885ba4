"""The Grafana dashboard: it is current, Grafana's types accept it, and its links and LogQL queries are valid."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from engine.telemetry.metrics import METRICS
from tests.cluster import build, fixtures
from tests.support.grafana import panels, parse_logql, queries, substitute, type_errors

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "seed-loop" / "dashboard"
BOARD = json.loads((FOLDER / "tiercel.json").read_text())
DOCS = "https://github.com/tiercel/tiercel/blob/main/"


def load(path):
    """Import a script by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_is_what_the_generator_writes():
    written = load(FOLDER / "generate.py").generated()
    assert (FOLDER / "tiercel.json").read_text() == written, "run generate.py"


def test_grafana_knows_every_field_and_its_type(tmp_path):
    broken = copy.deepcopy(BOARD)
    stat, series, log = (
        next(panel for panel in broken["panels"] if panel["type"] == kind)
        for kind in ("stat", "timeseries", "logs")
    )
    stat["options"]["graphMod"] = "none"
    stat["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] = "0"
    series["targets"][0]["expression"] = "up"
    series["fieldConfig"]["defaults"]["custom"]["drawStyle"] = "bar"
    log["options"]["sortOrder"] = "descending"
    log["gridPos"]["width"] = 3
    broken["templating"]["list"][2]["auto"] = False
    broken["refresh"] = 30
    found = type_errors(tmp_path, {"board": BOARD, "broken": broken})
    assert found["board"] == []
    text = "\n".join(found["broken"])
    for field in (
        "graphMod",
        "value",
        "expression",
        "drawStyle",
        "sortOrder",
        "width",
        "auto",
        "refresh",
    ):
        assert f'"{field}": ' in text
    assert len(found["broken"]) == 8


def test_a_person_on_call_finds_a_text_a_unit_and_a_page_for_each_panel():
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in panels(BOARD):
        if panel["type"] == "text":
            continue
        assert panel["title"]
        assert panel["description"].endswith((".", "`"))
        assert panel["links"]
        if panel["type"] != "logs":
            defaults = panel["fieldConfig"]["defaults"]
            assert "unit" in defaults or "mappings" in defaults, panel["title"]


def test_panels_do_not_overlap_and_fit_into_the_grid():
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in BOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


def test_every_metric_of_the_engine_is_on_a_panel():
    text = " ".join(query for _, query in queries(BOARD, "prometheus"))
    used = {name.removesuffix("_bucket") for name in re.findall(r"tiercel_(\w+)", text)}
    used |= {
        re.sub(r".*tiercel_(\w+).*", r"\1", one["query"]["query"])
        for one in BOARD["templating"]["list"]
        if one["type"] == "query" and one["datasource"]["type"] == "prometheus"
    }
    assert used == set(METRICS)


def test_the_variables_select_the_data_sources_the_engine_the_playbook_and_the_pod():
    names = [one["name"] for one in BOARD["templating"]["list"]]
    assert names == ["datasource", "loki", "installation", "playbook", "namespace", "pod"]
    values = {"playbook": ["a.b", "it's"], "installation": ["tiercel"]}
    query = 'x{namespace=~"$installation", playbook=~"${playbook}", pod=~"[[pod]]"}[$__interval]'
    assert substitute(query, BOARD, values, __interval="1m") == (
        r'x{namespace=~"tiercel", playbook=~"(a\\.b|it\\' + "'" + r's)", pod=~".+"}[1m]'
    )
    with pytest.raises(AssertionError, match="no variable other"):
        substitute("$other", BOARD, {})


def test_every_link_leads_to_a_page_of_the_documentation():
    linked = re.findall(r'"url": "([^"]+)"', json.dumps(BOARD))
    assert len(linked) > 30
    for url in linked:
        path, _, anchor = url.removeprefix(DOCS).partition("#")
        text = (ROOT / path).read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings}
        assert not anchor or anchor in anchors, url


def test_each_alert_has_a_panel_that_links_to_its_runbook():
    rules = yaml.safe_load((FOLDER.parent / "prometheus/tiercel.rules.yaml").read_text())
    alerts = {rule["annotations"]["runbook_url"] for rule in rules["groups"][0]["rules"]}
    assert alerts == {url for panel in panels(BOARD) for url in urls(panel) if "runbooks" in url}


def test_a_panel_turns_red_where_its_alert_fires():
    rules = yaml.safe_load((FOLDER.parent / "prometheus/tiercel.rules.yaml").read_text())
    (rule,) = [one for one in rules["groups"][0]["rules"] if one["alert"] == "TiercelQueueOld"]
    (panel,) = [panel for panel in panels(BOARD) if panel["title"] == "Age of the queue"]
    last = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]
    assert last == {"color": "red", "value": int(rule["expr"].rpartition("> ")[2])}


def urls(panel):
    return [link["url"] for link in panel.get("links", ())]


def test_kustomize_makes_a_config_map_that_the_sidecar_of_grafana_loads():
    fixtures.require("kustomize")
    done = subprocess.run(
        [build.find("kustomize"), "build", FOLDER], capture_output=True, text=True, check=True
    )
    (config_map,) = yaml.safe_load_all(done.stdout)
    assert config_map["kind"] == "ConfigMap"
    assert config_map["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert config_map["metadata"]["name"] == "grafana-dashboard-tiercel"
    assert json.loads(config_map["data"]["tiercel.json"]) == BOARD
    assert len(done.stdout) < 1 << 20


def test_grafana_finds_the_file_where_the_provisioning_says():
    (provider,) = yaml.safe_load((FOLDER / "provisioning.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    assert (
        provider["options"]["path"]
        in (FOLDER / "provisioning.yaml").read_text().split("providers")[0]
    )


def logql():
    """Every LogQL query of the repository: of the dashboard, the pages and the seed loop, with its place."""
    for title, query in queries(BOARD, "loki"):
        yield f"dashboard: {title}", query
    pages = [
        page
        for folder in ("docs", "examples", "kustomize")
        for page in ROOT.glob(f"{folder}/**/*.md")
    ]
    for page in pages:
        for block in re.findall(r"```logql\n(.*?)```", page.read_text(), re.DOTALL):
            for query in block.strip().split("\n\n"):
                yield f"{page.relative_to(ROOT)}", query
    for kind in ("alloy", "py", "yaml"):
        pages += [path for path in FOLDER.parent.glob(f"**/*.{kind}") if path.parent != FOLDER]
    for path in pages:
        for query in embedded(path):
            yield f"{path.relative_to(ROOT)}", query


def embedded(path):
    """Yield the selectors in the text of a file, and the selectors that Alloy's configuration has as strings."""
    text = path.read_text()
    for query in re.findall(r'selector = ("\{.*")', text):
        yield json.loads(query)
    if path.suffix == ".py":  # an f-string: the braces are doubled, and a value is in braces
        text = re.sub(r'="\{\w[^{}"]*\}"', '="x"', text).replace("{{", "{").replace("}}", "}")
    yield from re.findall(r'\{(?:k8s_\w+|source|rule|priority)=~?"[^}\n]*\}', text)


def test_every_logql_query_parses():
    found = list(logql())
    assert {"docs/dashboard.md", "examples/seed-loop/alloy/config.alloy"} <= {
        where for where, _ in found
    }
    wrong = ['{source="tiercel"', '{source="tiercel"} | json | decision !', "{source=tiercel}"]
    read = parse_logql([*(query for _, query in found), *wrong])
    errors = [one["error"] for one in read[: len(found)]]
    assert [pair for pair in zip(found, errors, strict=True) if pair[1]] == []
    assert all(one["error"] for one in read[len(found) :])
