"""Compiles the Guardrails document over the defaults that hold without one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from engine.language import duration
from engine.language.compile import compile_steps
from engine.language.findings import nearest
from engine.language.template import HELD_WORDS, TemplateError, compile_template
from engine.model.name_patterns import is_glob
from engine.model.playbook import Budget, Guardrails

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.language.compile import Action
    from engine.language.findings import Findings
    from engine.language.yaml_source import Document, Path


def compile_guardrails(
    document: Document, findings: Findings, actions: Mapping[str, Action]
) -> Guardrails | None:
    """Compile Guardrails that ``check_document`` has checked; None if they have an error.

    ``protected`` adds to the default. Every other key replaces the default.
    """
    spec = document.data.get("spec")
    if isinstance(spec, dict):
        _check_budgets(spec.get("budgets"), findings, actions)
        _check_on_held(spec, findings, actions)
    if findings.has_errors:
        return None
    default, protected = Guardrails(), spec.get("protected", {})
    on_held = spec.get("onHeld")
    return Guardrails(
        namespaces=(*default.namespaces, *protected.get("namespaces", ())),
        labels=(*default.labels, *protected.get("labels", {}).items()),
        trust_pods_in=tuple(protected.get("trustPodsIn", ())),
        budgets=tuple(map(_budget, spec["budgets"])) if "budgets" in spec else default.budgets,
        max_event_age=duration.seconds(spec.get("maxEventAge")) or default.max_event_age,
        on_exceeded=spec.get("onExceeded", default.on_exceeded),
        hold_for=duration.seconds(spec.get("holdFor")) or default.hold_for,
        on_held=msgspec.json.encode(on_held, order="deterministic") if on_held else b"",
    )


def _check_on_held(spec: dict[str, Any], findings: Findings, actions: Mapping[str, Action]) -> None:
    """Report steps that do not notify, and unknown ``%held.`` words."""
    steps = iter(compile_steps(spec, ("onHeld",), findings, actions))
    data = spec.get("onHeld")
    for n, item in enumerate(data if isinstance(data, list) else []):
        if findings.has_errors or not isinstance(item, dict):
            return
        effect = next(steps).effect
        if effect != "notify":
            what = f"`onHeld` takes steps that notify; the effect of {item['action']} is {effect}"
            findings.add(("spec", "onHeld", n, "action"), "bad-value", what, "slack.post")
        for path, name in _template_names(item.get("with"), ("spec", "onHeld", n, "with")):
            if name.startswith("held.") and name not in HELD_WORDS:
                what = f"`%{name[:80]}` is not a word about the hold"
                hint = nearest(name, HELD_WORDS) or ", ".join(HELD_WORDS)
                findings.add(path, "bad-template", what, hint)


def _template_names(data: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the names in the templates of parameters, each with its path."""
    if isinstance(data, dict):
        for key, item in data.items():
            yield from _template_names(item, (*path, key))
    elif isinstance(data, list):
        for n, item in enumerate(data):
            yield from _template_names(item, (*path, n))
    elif isinstance(data, str):
        with contextlib.suppress(TemplateError):  # reported when the step is compiled
            yield from ((path, name) for name in compile_template(data).names)


def _check_budgets(budgets: Any, findings: Findings, actions: Mapping[str, Action]) -> None:
    """Report digests of steps that do not send messages, and actions that do not exist."""
    for n, budget in enumerate(budgets if isinstance(budgets, list) else []):
        if not isinstance(budget, dict):
            continue
        effect = budget.get("effect")
        if budget.get("onExceeded") == "digest" and effect in ("observe", "mark", "disrupt"):
            what = f"a digest combines messages, and a step that {effect}s does not send any"
            findings.add(("spec", "budgets", n, "onExceeded"), "bad-value", what, "hold")
        names = budget.get("actions")
        for at, name in enumerate(names if isinstance(names, list) else []):
            if isinstance(name, str) and not is_glob(name) and name not in actions:
                what = f"there is no action `{name[:80]}`, so the budget does not count it"
                hint = nearest(name, actions) or "tiercel actions"
                path = ("spec", "budgets", n, "actions", at)
                findings.add(path, "unknown-action", what, hint, severity="warning")


def _budget(data: dict[str, Any]) -> Budget:
    return Budget(
        effect=data["effect"],
        limit=data["limit"],
        per=duration.seconds(data["per"]) or 0.0,
        scope=data["scope"],
        actions=tuple(data["actions"]) if "actions" in data else None,
        playbooks=tuple(data["playbooks"]) if "playbooks" in data else None,
        on_exceeded=data.get("onExceeded") or ("digest" if data["effect"] == "notify" else None),
    )
