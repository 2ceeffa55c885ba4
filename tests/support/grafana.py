"""Substitute variables as Grafana does, and check dashboards and LogQL with Grafana's npm packages."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.node.install import install, modules
from tests.support.engine import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Json = dict[str, Any]

NODE = Path(__file__).parents[1] / "node"
ALL = "$__all"
_VARIABLE = re.compile(r"\$\{(\w+)(?::\w+)?\}|\[\[(\w+)\]\]|\$(\w+)")
_SPECIAL = re.compile(r"[\\$^*{}\[\]'+?.()|]")


def node_modules() -> Path:
    """Return the folder of the npm packages. If they are missing, skip the test, or install them in CI."""
    found = modules()
    if found and shutil.which("node"):
        return found
    if not os.environ.get("CI"):
        pytest.skip("run `make node-modules`")
    return install()


def panels(board: Json) -> list[Json]:
    """Return the panels of a dashboard, without rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(board: Json, source: str) -> Iterator[tuple[str, str]]:
    """Yield the title of each panel or annotation with a query of a data source: prometheus or loki."""
    for one in (*panels(board), *board["annotations"]["list"]):
        if one.get("datasource", {}).get("type") == source:
            for target in one.get("targets") or [one["target"]]:
                yield one.get("title") or one["name"], target["expr"]


def substitute(
    query: str, board: Json, chosen: Mapping[str, Sequence[str]], **built_in: str
) -> str:
    """Return the query with the values of the variables, as Grafana's data sources insert them.

    chosen: values by the name of a variable; ``[ALL]`` is All. A variable with several values is a regular
    expression: each value is escaped, and they are joined. built_in: values of ``__interval`` and so on.
    """
    models = {one["name"]: one for one in board["templating"]["list"]}

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2] or found[3]
        if name in built_in:
            return built_in[name]
        if name not in models:
            raise AssertionError(f"{query}: there is no variable {name}")
        values = chosen.get(name) or models[name]["current"]["value"]
        if values == [ALL]:
            return str(models[name]["allValue"])
        escaped = [_SPECIAL.sub(lambda one: f"\\\\{one[0]}", text) for text in values]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    return _VARIABLE.sub(value, query)


def type_errors(folder: Path, boards: Mapping[str, Json]) -> dict[str, list[str]]:
    """Return what tsc reports for dashboards: name -> messages with the panel and the field.

    tsc knows Grafana's types from the package @grafana/schema (see tests/node/dashboard.ts).
    """
    packages = node_modules()
    files = []
    for name, board in boards.items():
        files.append(f"{name}.ts")
        (folder / files[-1]).write_text("".join(_constants(board)))
    shutil.copy(NODE / "dashboard.ts", folder / "types.ts")
    options = {
        "strict": True,
        "noEmit": True,
        "skipLibCheck": True,
        "target": "es2022",
        "module": "esnext",
        "moduleResolution": "bundler",
        "types": [],
        "paths": {"*": [f"{packages}/*"]},
    }
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": options, "files": files}))
    command = [
        "node",
        packages / "typescript/bin/tsc",
        "--project",
        "tsconfig.json",
        "--pretty",
        "false",
    ]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    found: dict[str, list[str]] = {name: [] for name in boards}
    for line in done.stdout.splitlines():
        place = re.match(r"(\w+)\.ts\((\d+),\d+\): error \w+: (.*)", line)
        if place:
            source = (folder / f"{place[1]}.ts").read_text().splitlines()
            found.setdefault(place[1], []).append(f"{source[int(place[2]) - 1].strip()} {place[3]}")
    assert bool(done.returncode) == any(found.values()), done.stdout + done.stderr
    return found


def _constants(board: Json) -> Iterator[str]:
    """Yield TypeScript with a constant for each panel, variable and annotation, and one for the rest."""
    yield "import type { Annotation, Board, DatasourceVariable, Panels, QueryVariable } from './types';\n"
    rest = {
        key: value
        for key, value in board.items()
        if key not in ("panels", "templating", "annotations")
    }
    yield _constant("board", "Board", rest)
    for number, panel in enumerate(board["panels"]):
        yield _constant(f"panel{number}", f"Panels[{json.dumps(panel['type'])}]", panel)
    for number, variable in enumerate(board["templating"]["list"]):
        kind = f"{variable['type'].capitalize()}Variable"
        yield _constant(f"variable{number}", kind, variable)
    for number, annotation in enumerate(board["annotations"]["list"]):
        yield _constant(f"annotation{number}", "Annotation", annotation)


def _constant(name: str, kind: str, value: Json) -> str:
    return f"export const {name}: {kind} = {json.dumps(value, indent=1)};\n"


def parse_logql(texts: Sequence[str]) -> list[Json]:
    """Parse LogQL with Grafana's parser. Returns for each query: error, selectors, lineFilters, nodes."""
    done = subprocess.run(
        ["node", NODE / "logql.mjs", node_modules()],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    found: list[Json] = json.loads(done.stdout)
    return found
