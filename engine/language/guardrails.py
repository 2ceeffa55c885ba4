"""The Guardrails document, compiled over the floor that holds without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.language import duration
from engine.playbook import Budget, Guardrails

if TYPE_CHECKING:
    from engine.language.report import Findings
    from engine.language.source import Document


def compile_guardrails(document: Document, report: Findings) -> Guardrails | None:
    """The guardrails; None where an error was reported. The document has been through check_document.

    It only adds to what is protected; the other keys that it names take the floor's place.
    """
    spec = document.data.get("spec")
    if isinstance(spec, dict):
        _check_budgets(spec.get("budgets"), report)
    if report.failed:
        return None
    floor, protected = Guardrails(), spec.get("protected", {})
    return Guardrails(
        namespaces=(*floor.namespaces, *protected.get("namespaces", ())),
        labels=(*floor.labels, *protected.get("labels", {}).items()),
        trust_pods_in=tuple(protected.get("trustPodsIn", ())),
        budgets=tuple(map(_budget, spec["budgets"])) if "budgets" in spec else floor.budgets,
        max_event_age=duration.seconds(spec.get("maxEventAge")) or floor.max_event_age,
        on_exceeded=spec.get("onExceeded", floor.on_exceeded),
        hold_for=duration.seconds(spec.get("holdFor")) or floor.hold_for,
    )


def _check_budgets(budgets: Any, report: Findings) -> None:
    """A digest is of messages; a message is not worth a person's leave."""
    for n, budget in enumerate(budgets if isinstance(budgets, list) else []):
        if not isinstance(budget, dict):
            continue
        effect, then = budget.get("effect"), budget.get("onExceeded")
        if then == "digest" and effect in ("observe", "mark", "disrupt"):
            what = f"only messages have a digest, and a step that {effect}s sends none"
            report(("spec", "budgets", n, "onExceeded"), "bad-value", what, "hold")


def _budget(data: dict[str, Any]) -> Budget:
    return Budget(
        effect=data["effect"],
        limit=data["limit"],
        per=duration.seconds(data["per"]) or 0.0,
        scope=data["scope"],
        actions=tuple(data["actions"]) if "actions" in data else None,
        on_exceeded=data.get("onExceeded") or ("digest" if data["effect"] == "notify" else None),
    )
