"""The catalogue of the rules that Falco and its plugins ship."""

from __future__ import annotations

from engine.falco.catalogue import FOLDER, catalogue, table
from rules.refresh_catalogue import refresh

RULE = """\
- rule: R
  desc: d
  condition: evt.type = open
  output: opened %fd.name
  priority: WARNING
  tags: [filesystem]
"""


def test_the_catalogue_has_the_rules_that_falco_and_its_plugins_ship():
    rules = catalogue()
    assert len(rules) == 242
    assert rules["Terminal shell in container"].where.file == "falco_rules.yaml"
    sources = {rule.source for rule in rules.values()}
    assert sources == {"syscall", "k8s_audit", "aws_cloudtrail", "okta", "github", "gcp_auditlog"}


def test_the_catalogue_marks_rules_that_are_always_false_as_shipped():
    never = {rule.name for rule in catalogue().values() if rule.never_true}
    assert {"Create Disallowed Pod", "All K8s Audit Events"} <= never
    assert "Terminal shell in container" not in never


def test_a_catalogue_table_is_generated_from_rules_files(tmp_path):
    (tmp_path / "x_rules.yaml").write_text(RULE)
    refreshed = tmp_path / "x.tsv"
    assert refresh("upstream 1234", refreshed, [str(tmp_path / "x_rules.yaml")]) == 1
    assert refreshed.read_text().splitlines() == [
        "# upstream 1234",
        "rule\tpriority\tsource\ttags\toutput_fields\tenabled\tfile",
        "R\tWarning\tsyscall\tfilesystem\tfd.name\ttrue\tx_rules.yaml",
    ]


def test_a_catalogue_table_is_written_as_it_was_read():
    file = FOLDER / "falco_rules.tsv"
    origin = file.read_text().splitlines()[0].removeprefix("# ")
    rules = [r for r in catalogue().values() if f"\t{r.where.file}\n" in file.read_text()]
    assert table(rules, origin) == file.read_text()
