"""The rules that Falco and its plugins ship, as data: known to ``check`` without any rules file.

Each ``*_rules.tsv`` of ``catalogue/`` is a table with tabs: its first line names the source, its second the
columns. ``rules/refresh_catalogue.py`` writes such a table from rules files.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from engine.falco.rule import FalcoRule
from engine.model.errors import Location
from engine.model.event import parse_priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FOLDER = Path(__file__).with_name("catalogue")
COLUMNS = ("rule", "priority", "source", "tags", "output_fields", "enabled", "file")
OWN_FILE = "falco_rules.yaml"
"""The rules that Falco's image and chart load whatever else is configured."""


@cache
def catalogue() -> Mapping[str, FalcoRule]:
    """Name -> rule; ``where.file`` is the rules file of upstream that has it.

    The column ``enabled`` is ``never`` for a rule that is switched off by its condition.
    """
    rules: dict[str, FalcoRule] = {}
    for file in sorted(FOLDER.glob("*_rules.tsv")):
        for line in file.read_text(encoding="utf-8").splitlines()[2:]:
            rule = _rule(dict(zip(COLUMNS, line.split("\t"), strict=True)))
            rules[rule.name] = rule
    return rules


def _rule(row: Mapping[str, str]) -> FalcoRule:
    return FalcoRule(
        name=row["rule"],
        priority=parse_priority(row["priority"]) or 0,
        source=row["source"],
        tags=frozenset(filter(None, row["tags"].split(","))),
        # a name with a comma in its brackets is none that Falco ships
        output_fields=frozenset(filter(None, row["output_fields"].split(","))),
        enabled=row["enabled"] != "false",
        never_true=row["enabled"] == "never",
        where=Location(row["file"], 1, 1),
    )


def table(rules: Iterable[FalcoRule], origin: str) -> str:
    """The text of a catalogue file: its origin, the columns, a line a rule in order of file and name."""
    ordered = sorted(rules, key=lambda rule: (Path(rule.where.file).name, rule.name))
    return "\n".join([f"# {origin}", "\t".join(COLUMNS), *map(_line, ordered), ""])


def _line(rule: FalcoRule) -> str:
    tags, printed = ",".join(sorted(rule.tags)), ",".join(sorted(rule.output_fields))
    enabled, file = str(rule.enabled).lower(), Path(rule.where.file).name
    if rule.enabled and rule.never_true:
        enabled = "never"
    cells = (rule.name, rule.priority_name, rule.source, tags, printed, enabled, file)
    return "\t".join(cells)
