"""Several files, and several blocks of one name, become one: by Talon's own law, where it is safe.

Actions: what a later block says replaces, lists grow, mappings are joined. Rules: lists grow (they are
alternatives, so the rule matches more), flags and texts are replaced. Talon drops the earlier ``priority``
and ``source`` even where the later block has none; that would match more than anyone wrote, so it is told
and not done.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.talon.import_report import ImportReport
    from engine.talon.rules_file import Action, Match, Rule, RulesFile


def merge(files: Iterable[RulesFile], notes: ImportReport) -> tuple[dict[str, Action], list[Rule]]:
    """The action blocks by name, and the rules in the order in which each is first named."""
    blocks: dict[str, Action] = {}
    rules: dict[str, Rule] = {}
    for file in files:
        for action in file.actions:
            before = blocks.get(action.name)
            blocks[action.name] = _over(before, action, notes) if before else action
        for rule in file.rules:
            earlier = rules.get(rule.name)
            rules[rule.name] = _extended(earlier, rule, notes) if earlier else rule
    return blocks, list(rules.values())


def resolve(action: Action, blocks: Mapping[str, Action]) -> Action:
    """A rule's action with what the block of its name adds; what the rule says itself comes first."""
    block = blocks.get(action.name)
    if block is None:
        return action
    parameters: dict[str, Any] = dict(block.parameters)
    for key, own in action.parameters.items():
        parameters[key] = _joined(own, block.parameters.get(key))
    return replace(
        action,
        actionner=action.actionner or block.actionner,
        description=action.description or block.description,
        continues=block.continues if action.continues is None else action.continues,
        ignores_errors=(
            block.ignores_errors if action.ignores_errors is None else action.ignores_errors
        ),
        parameters=parameters,
        places={**block.places, **action.places},
        output=action.output or block.output,
    )


def _joined(own: Any, block: Any) -> Any:
    """A parameter of a rule's action: lists have the block's items first, mappings the rule's values."""
    if own is None:
        return block
    if isinstance(own, list) and isinstance(block, list):
        return [*block, *own]
    if isinstance(own, dict) and isinstance(block, dict):
        return {**block, **own}
    return own


def _over(before: Action, later: Action, notes: ImportReport) -> Action:
    parameters, places = dict(before.parameters), dict(before.places)
    for key, value in later.parameters.items():
        old = parameters.get(key)
        if value is None:
            continue
        if old is not None and type(old) is not type(value):
            what = f"`{key}` is of another type than before, so Talon keeps the earlier value"
            notes.differs(later.places[key], what, f"see {places[key]}")
            continue
        if isinstance(value, list):
            parameters[key] = [*(old or []), *value]
        elif isinstance(value, dict):
            parameters[key] = {**(old or {}), **value}
        else:
            parameters[key] = value
        places[key] = later.places[key]
    return replace(
        before,
        actionner=later.actionner or before.actionner,
        description=later.description or before.description,
        continues=before.continues if later.continues is None else later.continues,
        ignores_errors=(
            before.ignores_errors if later.ignores_errors is None else later.ignores_errors
        ),
        parameters=parameters,
        places=places,
        output=later.output or before.output,
    )


def _extended(before: Rule, later: Rule, notes: ImportReport) -> Rule:
    return replace(
        before,
        match=_wider(before.match, later.match, notes),
        actions=before.actions + later.actions,
        description=later.description or before.description,
        continues=before.continues if later.continues is None else later.continues,
        dry_run=before.dry_run if later.dry_run is None else later.dry_run,
        notifiers=before.notifiers + later.notifiers,
    )


def _wider(before: Match, later: Match, notes: ImportReport) -> Match:
    for key in ("priority", "source"):
        old = getattr(before, key)
        if old is not None and getattr(later, key) is None:
            what = (
                f"Talon drops the rule's earlier `{key}` here, for this block has none; it is kept"
            )
            notes.differs(later.where, what, f"see {old.where}")
    return replace(
        before,
        rules=before.rules + later.rules,
        tags=before.tags + later.tags,
        output_fields=before.output_fields + later.output_fields,
        priority=later.priority or before.priority,
        source=later.source or before.source,
        lost=before.lost or later.lost,
    )
