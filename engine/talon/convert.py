"""Talon's rules files in, playbooks and findings out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.talon.import_report import ImportReport
from engine.talon.merge import merge
from engine.talon.playbook_yaml import playbook_yaml
from engine.talon.rules_file import read_rules
from engine.talon.translate import drafts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.model.errors import Finding

MAX_SIZE = 8 << 20
"""Characters of playbooks; a block that thousands of rules refer to would grow without bound."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What an import came to.

    playbooks: name -> the YAML of its document. findings: errors for what could not be carried over,
    warnings for what means something else, by place. too_large: it was given up past MAX_SIZE.
    """

    playbooks: Mapping[str, str]
    findings: tuple[Finding, ...]
    too_large: bool = False


def convert(files: Sequence[tuple[str, bytes]]) -> Conversion:
    """The playbooks that Talon's rules files come to, given as (path, content) in Talon's order.

    Where a file is broken as YAML no playbook is made: half of an override would mean something else.
    """
    notes = ImportReport()
    read, broken = [], []
    for file, content in files:
        rules, faults = read_rules(content, file, notes)
        read.append(rules)
        broken += faults
    if broken:
        return Conversion({}, tuple(sorted(broken, key=lambda f: (f.where, f.code))))
    playbooks: dict[str, str] = {}
    size = 0
    blocks, rules_ = merge(read, notes)
    for draft in drafts(rules_, blocks, notes):
        playbooks[draft.name] = playbook_yaml(draft)
        size += len(playbooks[draft.name])
        if size > MAX_SIZE:
            return Conversion({}, (), too_large=True)
    return Conversion(playbooks, tuple(notes.findings))
