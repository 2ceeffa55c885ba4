"""Convert Talon's rules files into playbooks and findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.talon.import_report import ImportReport
from engine.talon.merge import merge
from engine.talon.playbook_yaml import playbook_yaml
from engine.talon.rules_file import read_rules
from engine.talon.translate import playbook_drafts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.model.errors import Finding

MAX_SIZE = 8 << 20
"""Characters of all playbooks. Each rule copies the action blocks that it refers to, so a small file can give
a large result."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """The result of an import.

    playbooks: name -> YAML document.
    findings: errors for parts that cannot be converted, warnings for parts that work differently, sorted by
        location.
    too_large: the playbooks exceed MAX_SIZE, so there are none.
    """

    playbooks: Mapping[str, str]
    findings: tuple[Finding, ...]
    too_large: bool = False


def convert(files: Sequence[tuple[str, bytes]]) -> Conversion:
    """Convert Talon's rules files, given as (path, content) in Talon's order.

    If a file is not valid YAML, the result has no playbooks, because a part of an override would mean
    something else.
    """
    report = ImportReport()
    rules_files, yaml_errors = [], []
    for file, content in files:
        rules_file, errors = read_rules(content, file, report)
        rules_files.append(rules_file)
        yaml_errors += errors
    if yaml_errors:
        return Conversion({}, tuple(sorted(yaml_errors, key=lambda f: (f.where, f.code))))
    playbooks: dict[str, str] = {}
    size = 0
    blocks, rules = merge(rules_files, report)
    for draft in playbook_drafts(rules, blocks, report):
        playbooks[draft.name] = playbook_yaml(draft)
        size += len(playbooks[draft.name])
        if size > MAX_SIZE:
            return Conversion({}, (), too_large=True)
    return Conversion(playbooks, tuple(report.findings))
