"""Merge several rules files, and blocks with the same name, as Talon does.

Action blocks: a later block replaces values, extends lists and merges mappings. Rules: a later block extends
lists, whose items are alternatives, so the rule matches more; it replaces flags and texts. There is one
exception: if a later block has no ``priority`` or ``source``, Talon drops the earlier one, and the rule matches
more than anyone wrote. Here the earlier value is kept and reported.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.talon.import_report import ImportReport
    from engine.talon.rules_file import Action, Match, Rule, RulesFile


def merge(files: Iterable[RulesFile], report: ImportReport) -> tuple[dict[str, Action], list[Rule]]:
    """Return the action blocks by name, and the rules in the order of their first appearance."""
    blocks: dict[str, Action] = {}
    rules: dict[str, Rule] = {}
    for file in files:
        for action in file.actions:
            block = blocks.get(action.name)
            blocks[action.name] = _merge_block(block, action, report) if block else action
        for rule in file.rules:
            earlier = rules.get(rule.name)
            rules[rule.name] = _merge_rule(earlier, rule, report) if earlier else rule
    return blocks, list(rules.values())


def with_block(action: Action, blocks: Mapping[str, Action]) -> Action:
    """Return a rule's action extended by the action block of the same name. The rule's values win."""
    block = blocks.get(action.name)
    if block is None:
        return action
    parameters: dict[str, Any] = dict(block.parameters)
    for key, value in action.parameters.items():
        parameters[key] = _combined(value, block.parameters.get(key))
    return replace(
        action,
        actionner=action.actionner or block.actionner,
        description=action.description or block.description,
        continues=block.continues if action.continues is None else action.continues,
        ignores_errors=(
            block.ignores_errors if action.ignores_errors is None else action.ignores_errors
        ),
        parameters=parameters,
        locations={**block.locations, **action.locations},
        output=action.output or block.output,
    )


def _combined(value: Any, block: Any) -> Any:
    """Combine a parameter of a rule's action with that of the block: the block's list items come first."""
    if value is None:
        return block
    if isinstance(value, list) and isinstance(block, list):
        return [*block, *value]
    if isinstance(value, dict) and isinstance(block, dict):
        return {**block, **value}
    return value


def _merge_block(earlier: Action, later: Action, report: ImportReport) -> Action:
    parameters, locations = dict(earlier.parameters), dict(earlier.locations)
    for key, value in later.parameters.items():
        old = parameters.get(key)
        if value is None:
            continue
        if old is not None and type(old) is not type(value):
            what = f"`{key}` has another type than before, so Talon keeps the earlier value"
            report.warning(later.locations[key], what, f"see {locations[key]}")
            continue
        if isinstance(value, list):
            parameters[key] = [*(old or []), *value]
        elif isinstance(value, dict):
            parameters[key] = {**(old or {}), **value}
        else:
            parameters[key] = value
        locations[key] = later.locations[key]
    return replace(
        earlier,
        actionner=later.actionner or earlier.actionner,
        description=later.description or earlier.description,
        continues=earlier.continues if later.continues is None else later.continues,
        ignores_errors=(
            earlier.ignores_errors if later.ignores_errors is None else later.ignores_errors
        ),
        parameters=parameters,
        locations=locations,
        output=later.output or earlier.output,
    )


def _merge_rule(earlier: Rule, later: Rule, report: ImportReport) -> Rule:
    return replace(
        earlier,
        match=_merge_match(earlier.match, later.match, report),
        actions=earlier.actions + later.actions,
        description=later.description or earlier.description,
        continues=earlier.continues if later.continues is None else later.continues,
        dry_run=earlier.dry_run if later.dry_run is None else later.dry_run,
        notifiers=earlier.notifiers + later.notifiers,
    )


def _merge_match(earlier: Match, later: Match, report: ImportReport) -> Match:
    for key in ("priority", "source"):
        old = getattr(earlier, key)
        if old is not None and getattr(later, key) is None:
            what = f"this block has no `{key}`, so Talon drops the earlier one; Tiercel keeps it"
            report.warning(later.where, what, f"see {old.where}")
    return replace(
        earlier,
        rules=earlier.rules + later.rules,
        tags=earlier.tags + later.tags,
        output_fields=earlier.output_fields + later.output_fields,
        priority=later.priority or earlier.priority,
        source=later.source or earlier.source,
        incomplete=earlier.incomplete or later.incomplete,
    )
