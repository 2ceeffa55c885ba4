"""The matrix of rules and shipped playbooks on docs/response-library.md."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from engine.actions.registry import load_actions
from engine.falco.catalogue import OWN_FILE, catalogue
from engine.falco.rule_coverage import rule_coverage
from engine.falco.rules_file import FalcoRules
from engine.language.folder import read_files
from engine.language.loader import Loader

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.falco.rule_coverage import AnsweredRule
    from engine.model.playbook import Playbook

LIBRARY = Path(__file__).parents[1] / "playbooks"


def matrix() -> Iterator[str]:
    """Yield one table per folder: rules, the strongest effect of their answer, and the playbooks."""
    playbooks, found = _answers()
    folders = {one.name: Path(one.where.file).parent.name for one in playbooks if one.where}
    for folder in sorted(set(folders.values())):
        rows = [row for row in found if folder in {folders[p.name] for p in row.playbooks}]
        if rows:
            yield from (f"### {folder}", "", "| rule | effect | playbooks |", "|---|---|---|")
            yield from (_row(row, folders) for row in rows)
            yield ""


def reasons() -> Iterator[str]:
    """Yield the reason of each playbook that does not act."""
    _, found = _answers()
    given = {one.name: one.reason for row in found for one in row.playbooks if one.reason}
    yield from ("| playbook | no action, because |", "|---|---|")
    yield from (f"| {name} | {reason} |" for name, reason in sorted(given.items()))


@cache
def _answers() -> tuple[tuple[Playbook, ...], tuple[AnsweredRule, ...]]:
    """Return the shipped playbooks, and the rules that they must answer, also those that are off by default."""
    playbooks = Loader(load_actions()).load(read_files([LIBRARY])).usable().playbooks
    rules = {
        rule.name: replace(rule, never_true=False)
        for rule in catalogue().values()
        if rule.enabled and (rule.where.file == OWN_FILE or rule.source == "k8s_audit")
    }
    return playbooks, rule_coverage(FalcoRules(rules), playbooks).answered


def _row(row: AnsweredRule, folders: Mapping[str, str]) -> str:
    effect = "no action" if row.effect == "none" else row.effect
    effect += ", if a person approves" * row.asks
    rule = row.rule.name + " (off by default)" * catalogue()[row.rule.name].never_true
    links = (
        f"[{one.name}](../playbooks/{folders[one.name]}/{one.name}.yaml)"
        + f" ({one.mode})" * (one.mode not in ("enforce", "disabled"))
        for one in row.playbooks
    )
    return f"| {rule} | {effect} | {', '.join(links)} |"
