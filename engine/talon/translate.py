"""A Talon rule as a playbook that never does more than the rule did, without saying so."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.actions.registry import load_actions
from engine.language.findings import Findings, nearest
from engine.language.yaml_source import Document
from engine.talon import notifiers
from engine.talon.actionners import ACTIONNERS, FORMER
from engine.talon.import_report import NotCarriedError
from engine.talon.match import outside, overlap, translate
from engine.talon.merge import resolve
from engine.talon.parameters import Parameters
from engine.talon.playbook_yaml import flow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.model.errors import Location
    from engine.talon.import_report import ImportReport
    from engine.talon.match import Wanted
    from engine.talon.rules_file import Action, Rule

_LONGEST_NAME = 50
"""Of a DNS-1123 label's 63, so that a number has room behind."""
_NOT_PLAYBOOKS = ("values", "kustomization")
_MOST_ENDINGS = 20
"""Rules with ``continue: false`` that a later playbook excludes; their number would grow as the square."""
_MOST_ASKED = 200
"""Earlier rules of the same Falco rules that are compared; past them all count as overlapping."""


@dataclass(frozen=True, slots=True)
class Noted:
    """A part of a playbook with the comment over it. value: None where only the comment is left."""

    value: dict[str, Any] | None
    comment: str


@dataclass(slots=True)
class Draft:
    """A playbook about to be written. comments: over the document. mode: with the reason in brackets."""

    name: str
    rule: Rule
    comments: list[str] = field(default_factory=list)
    description: str = ""
    mode: tuple[str, str] | None = None
    match: dict[str, Any] = field(default_factory=dict)
    conditions: list[Noted] = field(default_factory=list)
    steps: list[Noted] = field(default_factory=list)
    finally_: list[dict[str, Any]] = field(default_factory=list)


def drafts(
    rules: Sequence[Rule], blocks: Mapping[str, Action], notes: ImportReport
) -> Iterator[Draft]:
    """The playbooks, in the rules' order; a rule that leaves nothing to do is told and left out."""
    names = _Names()
    endings = _Endings()
    for rule in rules:
        wanted = translate(rule.match, notes)
        draft = Draft(names.new(rule.name), rule, description=rule.description)
        draft.match = wanted.match
        draft.conditions = [Noted(one, "") for one in wanted.conditions]
        whole = _exclude(endings, wanted, draft, notes) and wanted.whole
        draft.steps = _steps(rule, blocks, notes)
        draft.finally_ = notifiers.steps(rule.notifiers, notes)
        if rule.dry_run:
            draft.mode = "dryRun", "dry_run: true in Talon"
        elif not whole:
            draft.mode = "dryRun", "not all of the rule's match could be carried over"
        if any(step.value for step in draft.steps):
            yield draft
        else:
            what = "none of its actions could be carried over; the rule is left out"
            notes.lost(rule.where, what)
        if rule.continues is False:
            endings.add(rule, wanted)


class _Endings:
    """The rules so far after which Talon asks no other, found by the Falco rules that they name."""

    def __init__(self) -> None:
        self._all: list[tuple[Rule, Wanted]] = []
        self._of: dict[str | None, list[int]] = {}

    def add(self, rule: Rule, wanted: Wanted) -> None:
        """One more."""
        for name in wanted.rules or (None,):
            self._of.setdefault(name, []).append(len(self._all))
        self._all.append((rule, wanted))

    def over(self, wanted: Wanted) -> tuple[list[tuple[Rule, Wanted]], bool]:
        """Those that an event may match, too, and whether these are all of them."""
        numbers: Sequence[int] = range(len(self._all))
        if wanted.rules:
            of = (self._of.get(name, ()) for name in (None, *wanted.rules))
            numbers = sorted({number for found in of for number in found})
        near = (self._all[number] for number in numbers[:_MOST_ASKED])
        found = [one for one in near if overlap(one[1], wanted)]
        few = len(found) <= _MOST_ENDINGS and len(numbers) <= _MOST_ASKED
        return found[:_MOST_ENDINGS], few


def _exclude(endings: _Endings, wanted: Wanted, draft: Draft, notes: ImportReport) -> bool:
    """Conditions against earlier rules after which Talon asks no other; whether all could be written."""
    before, written = endings.over(wanted)
    if not written:
        what = (
            f"more than {_MOST_ENDINGS} earlier rules have `continue: false`; no more are excluded"
        )
        notes.lost(draft.rule.where, what, "every playbook that matches acts; none ends the others")
    for rule, other in before:
        draft.conditions.append(
            Noted(outside(other), f'"{rule.name}" ({_line(rule.where)}) has continue: false')
        )
        if not other.whole:
            what = (
                f'"{rule.name}" ends the evaluation, and not all of its match could be carried over'
            )
            notes.lost(draft.rule.where, what, f"see {rule.where}")
            written = False
    return written


def _steps(rule: Rule, blocks: Mapping[str, Action], notes: ImportReport) -> list[Noted]:
    steps: list[Noted] = []
    names = _Names()
    ended: Action | None = None
    for one in rule.actions:
        action = resolve(one, blocks)
        origin = f"{_line(action.where)}: {action.name}"
        if ended is not None:
            what = f"`{action.name}` never runs in Talon, for `{ended.name}` before it ends the rule; left out"
            notes.differs(one.where, what, f"continue: true on `{ended.name}` would let it run")
            steps.append(Noted(None, f"{origin}: left out, for it never ran in Talon"))
            continue
        name = names.new(action.name)
        steps.append(_step(action, name, origin, notes))
        if not _continues(action):
            ended = action
    return steps


def _continues(action: Action) -> bool:
    if action.continues is not None or action.actionner is None:
        return action.continues is not False
    known = ACTIONNERS.get(FORMER.get(action.actionner.text, action.actionner.text))
    return known is None or known.continues


def _step(action: Action, name: str, origin: str, notes: ImportReport) -> Noted:
    said = action.actionner
    if said is None:
        what = f"`{action.name}` has no actionner, and no action block has one for it"
        notes.lost(action.where, what)
        return Noted(None, f"{origin}: left out, it has no actionner")
    actionner = ACTIONNERS.get(FORMER.get(said.text, said.text))
    if actionner is None:
        notes.lost(
            said.where, f"Talon has no actionner `{said.text}`", nearest(said.text, ACTIONNERS)
        )
        return Noted(None, f"{origin} ({said.text}): left out, Talon has no such actionner")
    origin += f" ({said.text})"
    parameters = Parameters(action, notes)
    try:
        given = actionner.carry(parameters)
    except NotCarriedError as error:
        notes.lost(action.where, f"`{action.name}` ({said.text}) left out: {error}", error.hint)
        return Noted(None, f"{origin}: left out, see what tiercel import said")
    parameters.tell_rest()
    step: dict[str, Any] = {"action": actionner.action, "name": name}
    if given:
        step["with"] = given
    if action.ignores_errors:
        step["onFailure"] = "continue"
    fault = _fault(actionner.action, given)
    if fault:
        notes.lost(action.where, f"`{action.name}` ({said.text}) left out: {fault[0]}", fault[1])
        return Noted(None, f"{origin}: left out, {fault[0]}\n- {flow(step)}")
    comment = f"{origin}\n{action.description}" if action.description else origin
    return Noted(step, comment)


def _fault(name: str, given: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """Why this version does not take the step: what is wrong, and a hint."""
    action = load_actions().get(name)
    if action is None:
        return f"this version has no action {name}", "the step stands in the playbook as a comment"
    findings = Findings(Document("", None))
    action.compile(dict(given), ("with",), findings, ())
    errors = [finding for finding in findings.entries if finding.severity == "error"]
    return (f"{name}: {errors[0].what}", errors[0].hint) if errors else None


def _line(where: Location) -> str:
    return f"{where.file}:{where.line}"


def _label(text: str) -> str:
    """A DNS-1123 label from a name."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST_NAME].strip("-")
    return f"{words}-rule" if words in _NOT_PLAYBOOKS else words or "rule"


class _Names:
    """Names given once each; one that is taken gets a number."""

    def __init__(self) -> None:
        self._given: dict[str, int] = {}

    def new(self, text: str) -> str:
        """A DNS-1123 label from a text, unlike those before."""
        name = _label(text)
        unique = name
        while unique in self._given:
            self._given[name] += 1
            unique = f"{name}-{self._given[name]}"
        self._given[unique] = 1
        return unique
