"""The rules that Falco and its plugins ship, as data, so that ``check`` works without rules files.

Each ``catalogue/*_rules.tsv`` is a tab-separated table. Its first line names the source, its second line the
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
"""The rules file that Falco's image and Helm chart always load."""


@cache
def catalogue() -> Mapping[str, FalcoRule]:
    """Return the shipped rules by name. ``where.file`` is the name of the upstream rules file.

    The column ``enabled`` is ``never`` for an enabled rule whose condition is always false.
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
        tags=_names(row["tags"]),
        # the rules that Falco ships have no field with a comma in its argument
        output_fields=_names(row["output_fields"]),
        enabled=row["enabled"] != "false",
        never_true=row["enabled"] == "never",
        where=Location(row["file"], 1, 1),
    )


@cache
def _names(cell: str) -> frozenset[str]:
    """Return the names in a cell. Half of the cells occur more than once."""
    return frozenset(filter(None, cell.split(",")))


def table(rules: Iterable[FalcoRule], origin: str) -> str:
    """Return the text of a catalogue file: the origin, the columns, and one line per rule.

    The rules are sorted by file and name.
    """
    ordered = sorted(rules, key=lambda rule: (Path(rule.where.file).name, rule.name))
    return "\n".join([f"# {origin}", "\t".join(COLUMNS), *map(_line, ordered), ""])


def _line(rule: FalcoRule) -> str:
    tags, output_fields = ",".join(sorted(rule.tags)), ",".join(sorted(rule.output_fields))
    enabled, file = str(rule.enabled).lower(), Path(rule.where.file).name
    if rule.enabled and rule.never_true:
        enabled = "never"
    cells = (rule.name, rule.priority_name, rule.source, tags, output_fields, enabled, file)
    return "\t".join(cells)
