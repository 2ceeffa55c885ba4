"""Budgets: how many targets the steps with one effect can have within a sliding window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from engine.journal.budget_cache import BudgetCache
from engine.language import duration
from engine.model.name_patterns import name_matcher

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.journal.protocol import BudgetStore
    from engine.model.playbook import Budget, Guardrails

DIGEST_PREFIX = "digest:"
"""Prefix of the keys of digests. The keys of budgets are JSON arrays."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One step on one target, to be counted in the budgets.

    target: a pod's uid, a node, or the step itself. owner: the uid of the pod's controller. mode: of the
    playbook. Each mode has its own windows, so a dry run uses up no budget of the steps that act.
    """

    effect: str
    action: str
    playbook: str
    target: str
    namespace: str | None = None
    owner: str | None = None
    mode: str = "enforce"


@dataclass(frozen=True, slots=True)
class ExceededBudget:
    """A budget that is used up, and what happens to the step. per: the window of the budget, in seconds."""

    message: str
    on_exceeded: Literal["hold", "drop", "digest"]
    per: float = 0.0


@dataclass(frozen=True, slots=True)
class ChargeResult:
    """The windows in which the target is newly counted, or the budget that is used up."""

    target: str
    keys: tuple[str, ...] = ()
    exceeded: ExceededBudget | None = None


class BudgetLedger:
    """The targets counted in each budget. Thread-safe. Its clock never goes back.

    store: has the windows: key -> {"targets": {target: epoch seconds}, "until": epoch seconds}, and for
    digests {"count": …, "until": …}. Changes are on disk before the step acts. Previews have no store.
    """

    def __init__(self, store: BudgetStore | None = None) -> None:
        self._store = store or BudgetCache()
        self._clock = 0.0

    def charge(self, guardrails: Guardrails, charge: Charge, now: float) -> ChargeResult:
        """Count the target in every budget that applies to the step. If one is used up, count it in none."""
        clock = self._clock = max(self._clock, now)
        applicable = [*_applicable(guardrails.budgets, charge)]

        def decide(windows: Mapping[str, Any]) -> tuple[dict[str, Any], ChargeResult]:
            changes: dict[str, Any] = {}
            for budget, key in applicable:
                since = clock - budget.per
                counted = windows.get(key, {"targets": {}})["targets"]
                targets = {target: at for target, at in counted.items() if at > since}
                if charge.target in targets:
                    continue
                if len(targets) >= budget.limit:
                    on_exceeded = budget.on_exceeded or guardrails.on_exceeded
                    exceeded = ExceededBudget(_message(budget), on_exceeded, budget.per)
                    return {}, ChargeResult(charge.target, exceeded=exceeded)
                targets[charge.target] = clock
                changes[key] = {"targets": targets, "until": clock + budget.per}
            return changes, ChargeResult(charge.target, tuple(changes))

        if not applicable:
            return ChargeResult(charge.target)
        return self._store.update_budgets([key for _, key in applicable], decide, clock)

    def refund(self, result: ChargeResult) -> None:
        """Remove the target from the windows in which the charge counted it: the step did not touch it."""

        def decide(windows: Mapping[str, Any]) -> tuple[dict[str, Any], None]:
            changes: dict[str, Any] = {}
            for key, window in windows.items():
                left = {t: at for t, at in window["targets"].items() if t != result.target}
                changes[key] = {**window, "targets": left} if left else None
            return changes, None

        if result.keys:
            self._store.update_budgets(result.keys, decide, self._clock)

    def remaining(self, guardrails: Guardrails) -> Iterator[tuple[Budget, int]]:
        """Yield each budget and how many targets its fullest window has left in mode enforce."""
        windows = {k: v for k, v in self._store.budget_windows().items() if "targets" in v}
        for budget in guardrails.budgets:
            prefix = _key("enforce", budget)[:-1] + ","
            since = self._clock - budget.per
            used = [
                sum(at > since for at in window["targets"].values())
                for key, window in windows.items()
                if key.startswith(prefix)
            ]
            yield budget, budget.limit - max(used, default=0)

    def add_to_digest(self, key: str, per: float, now: float) -> bool:
        """Count a message that is not sent now. Return whether it becomes the digest, ``per`` seconds later.

        The first message becomes the digest. A later one does if the digest is overdue by ``per`` seconds:
        then the run with the digest no longer exists.
        """
        key = DIGEST_PREFIX + key

        def decide(windows: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
            window = windows.get(key) or {"count": 0, "until": 0.0}
            is_digest = bool(window["count"] == 0 or window["until"] + per < now)
            until = now + per if is_digest else window["until"]
            return {key: {"count": window["count"] + 1, "until": until}}, is_digest

        return self._store.update_budgets([key], decide, self._clock)

    def digest_size(self, key: str) -> int:
        """Return the number of messages in the digest, this one included."""
        key = DIGEST_PREFIX + key
        return self._store.update_budgets(
            [key], lambda windows: ({}, int(windows.get(key, {"count": 0})["count"])), self._clock
        )

    def digest_sent(self, key: str, size: int) -> None:
        """Subtract the messages that a sent digest stood for."""
        key = DIGEST_PREFIX + key

        def decide(windows: Mapping[str, Any]) -> tuple[dict[str, Any], None]:
            window = windows.get(key)
            left = window["count"] - size if window else 0
            return {key: {**window, "count": left} if window and left > 0 else None}, None

        self._store.update_budgets([key], decide, self._clock)


def _applicable(budgets: tuple[Budget, ...], charge: Charge) -> Iterator[tuple[Budget, str]]:
    """Yield the budgets that apply to the step, each with the key of its window."""
    scopes = {
        "namespace": charge.namespace,
        "cluster": "",
        "owner": charge.owner and f"{charge.playbook}/{charge.owner}",
        "playbook": charge.playbook,
    }
    for budget in budgets:
        value = scopes[budget.scope]
        if budget.effect != charge.effect or value is None:
            continue
        applies = budget.actions is None or name_matcher(budget.actions)(charge.action)
        if applies and (
            budget.playbooks is None or name_matcher(budget.playbooks)(charge.playbook)
        ):
            yield budget, _key(charge.mode, budget, value)


def _key(mode: str, budget: Budget, *value: str) -> str:
    """Return the key of a window. It is built from the text of the budget, so it survives reload and restart."""
    parts = [mode, budget.effect, budget.scope, budget.limit, budget.per, *(budget.actions or ())]
    if budget.playbooks is not None:
        parts.append(list(budget.playbooks))
    return msgspec.json.encode([*parts, *value]).decode()


def _message(budget: Budget) -> str:
    which = f" by {', '.join(budget.actions)}" if budget.actions else ""
    which += f" of {', '.join(budget.playbooks)}" if budget.playbooks else ""
    targets = "target" if budget.limit == 1 else "targets"
    return (
        f"the budget of {budget.limit} {targets}{which} per {duration.text(budget.per)} "
        f"and {budget.scope} is used up ({budget.effect})"
    )
