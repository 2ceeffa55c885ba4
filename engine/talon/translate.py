"""Convert Talon rules into playbooks that never do more than the rule did."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from engine.actions.registry import load_actions
from engine.language.findings import Findings, nearest
from engine.language.yaml_source import Document
from engine.talon.actionners import ACTIONNERS, FORMER_NAMES, Parameters
from engine.talon.import_report import NotConvertibleError
from engine.talon.match import convert_match, negation, overlap
from engine.talon.merge import with_block
from engine.talon.notifiers import notifier_steps
from engine.talon.playbook_yaml import CommentedItem, PlaybookDraft, flow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.model.errors import Location
    from engine.talon.actionners import Actionner
    from engine.talon.import_report import ImportReport
    from engine.talon.match import ConvertedMatch
    from engine.talon.rules_file import Action, Rule, SourceText

_MAX_NAME = 50
"""Characters of a playbook name. A DNS-1123 label can have 63, so there is space for a number."""
_RESERVED_NAMES = ("values", "kustomization")
"""File names that the loader does not read as playbooks."""
_MAX_EXCLUSIONS = 20
"""Rules with ``continue: false`` that a later playbook excludes. Without a limit, the size of the playbooks
would grow with the square of the number of rules."""
_MAX_COMPARED = 200
"""Earlier rules that are compared with a rule. If there are more, the list of exclusions is incomplete."""


def playbook_drafts(
    rules: Sequence[Rule], blocks: Mapping[str, Action], report: ImportReport
) -> Iterator[PlaybookDraft]:
    """Yield one playbook per rule, in the order of the rules.

    A rule without a step that can be converted is reported and not converted.
    """
    names = _UniqueNames()
    terminal_rules = _TerminalRules()
    for rule in rules:
        converted = convert_match(rule.match, report)
        draft = PlaybookDraft(names.new(rule.name), rule, description=rule.description)
        draft.match = converted.match
        draft.conditions = [CommentedItem(condition, "") for condition in converted.conditions]
        complete = _exclude(terminal_rules, converted, draft, report) and converted.complete
        draft.steps = _steps(rule, blocks, report)
        draft.finally_ = notifier_steps(rule.notifiers, report)
        if rule.dry_run:
            draft.mode = "dryRun", "dry_run: true in Talon"
        elif not complete:
            draft.mode = "dryRun", "a part of the rule's match could not be converted"
        if any(step.value for step in draft.steps):
            yield draft
        else:
            what = "none of the actions can be converted, so the rule is not converted"
            report.error(rule.where, what)
        if rule.continues is False:
            terminal_rules.add(rule, converted)


class _TerminalRules:
    """The earlier rules with ``continue: false``. After one of them matches, Talon evaluates no other rule."""

    def __init__(self) -> None:
        self._all: list[tuple[Rule, ConvertedMatch]] = []
        self._by_falco_rule: dict[str | None, list[int]] = {}

    def add(self, rule: Rule, converted: ConvertedMatch) -> None:
        """Add a rule."""
        for name in converted.rules or (None,):
            self._by_falco_rule.setdefault(name, []).append(len(self._all))
        self._all.append((rule, converted))

    def overlapping(
        self, converted: ConvertedMatch
    ) -> tuple[list[tuple[Rule, ConvertedMatch]], bool]:
        """Return the rules that the same event can match, and whether the list is complete."""
        numbers: Sequence[int] = range(len(self._all))
        if converted.rules:
            lists = (self._by_falco_rule.get(name, ()) for name in (None, *converted.rules))
            numbers = sorted({number for found in lists for number in found})
        candidates = (self._all[number] for number in numbers[:_MAX_COMPARED])
        found = [one for one in candidates if overlap(one[1], converted)]
        complete = len(found) <= _MAX_EXCLUSIONS and len(numbers) <= _MAX_COMPARED
        return found[:_MAX_EXCLUSIONS], complete


def _exclude(
    terminal_rules: _TerminalRules,
    converted: ConvertedMatch,
    draft: PlaybookDraft,
    report: ImportReport,
) -> bool:
    """Add conditions that exclude the events of earlier terminal rules; return whether they are complete."""
    earlier, complete = terminal_rules.overlapping(converted)
    if not complete:
        what = f"more than {_MAX_EXCLUSIONS} earlier rules have `continue: false`; only the first are excluded"
        hint = "in Tiercel, every playbook that matches runs"
        report.error(draft.rule.where, what, hint)
    for rule, match in earlier:
        comment = f'"{rule.name}" ({_line(rule.where)}) has continue: false'
        draft.conditions.append(CommentedItem(negation(match), comment))
        if not match.complete:
            what = (
                f'"{rule.name}" has `continue: false`, and a part of its match cannot be converted'
            )
            report.error(draft.rule.where, what, f"see {rule.where}")
            complete = False
    return complete


def _steps(rule: Rule, blocks: Mapping[str, Action], report: ImportReport) -> list[CommentedItem]:
    steps: list[CommentedItem] = []
    names = _UniqueNames()
    terminal: Action | None = None
    for listed in rule.actions:
        action = with_block(listed, blocks)
        origin = f"{_line(action.where)}: {action.name}"
        if terminal is not None:
            what = f"Talon never runs `{action.name}`, because `{terminal.name}` ends the rule; not converted"
            hint = f"in Talon, set continue: true on `{terminal.name}`"
            report.warning(listed.where, what, hint)
            steps.append(
                CommentedItem(None, f"{origin}: not converted, because Talon never runs it")
            )
            continue
        steps.append(_step(action, names.new(action.name), origin, report))
        if not _continues(action):
            terminal = action
    return steps


def _continues(action: Action) -> bool:
    if action.continues is not None or action.actionner is None:
        return action.continues is not False
    known = _actionner(action.actionner)
    return known is None or known.continues


def _actionner(name: SourceText) -> Actionner | None:
    return ACTIONNERS.get(FORMER_NAMES.get(name.text, name.text))


def _step(action: Action, name: str, origin: str, report: ImportReport) -> CommentedItem:
    """Convert an action into a step. If that is not possible, report it and return only a comment."""
    if action.actionner is None:
        what = f"`{action.name}` has no actionner, and there is no action block with one"
        report.error(action.where, what)
        return CommentedItem(None, f"{origin}: not converted, no actionner")
    label = action.actionner.text
    actionner = _actionner(action.actionner)
    if actionner is None:
        what = f"Talon does not have an actionner `{label}`"
        report.error(action.actionner.where, what, nearest(label, ACTIONNERS))
        return CommentedItem(None, f"{origin} ({label}): not converted, unknown actionner")
    origin += f" ({label})"
    parameters = Parameters(action, report)
    try:
        converted = actionner.convert(parameters)
    except NotConvertibleError as error:
        what = f"`{action.name}` ({label}) is not converted: {error}"
        report.error(action.where, what, error.hint)
        return CommentedItem(None, f"{origin}: not converted, see the output of tiercel import")
    parameters.report_unknown()
    step: dict[str, Any] = {"action": actionner.action, "name": name}
    if converted:
        step["with"] = converted
    if action.ignores_errors:
        step["onFailure"] = "continue"
    mistake = _mistake(actionner.action, converted)
    if mistake:
        what = f"`{action.name}` ({label}) is not converted: {mistake[0]}"
        report.error(action.where, what, mistake[1])
        return CommentedItem(None, f"{origin}: not converted, {mistake[0]}\n- {flow(step)}")
    comment = f"{origin}\n{action.description}" if action.description else origin
    return CommentedItem(step, comment)


def _mistake(name: str, parameters: Mapping[str, Any]) -> tuple[str, str | None] | None:
    """Return the message and the hint if this version does not accept the step, else None."""
    action = load_actions().get(name)
    if action is None:
        return f"this version has no action {name}", "the playbook contains the step as a comment"
    findings = Findings(Document("", None))
    action.compile(dict(parameters), ("with",), findings, ())
    errors = [finding for finding in findings.entries if finding.severity == "error"]
    return (f"{name}: {errors[0].what}", errors[0].hint) if errors else None


def _line(where: Location) -> str:
    return f"{where.file}:{where.line}"


def _label(text: str) -> str:
    """Return a DNS-1123 label for a text."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_MAX_NAME].strip("-")
    return f"{words}-rule" if words in _RESERVED_NAMES else words or "rule"


class _UniqueNames:
    """Gives each name once. A name that is already used gets a number."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def new(self, text: str) -> str:
        """Return an unused DNS-1123 label for a text."""
        name = _label(text)
        unique = name
        while unique in self._used:
            self._used[name] += 1
            unique = f"{name}-{self._used[name]}"
        self._used[unique] = 1
        return unique
