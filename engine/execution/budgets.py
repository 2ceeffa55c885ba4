"""Budgets: how many targets the steps of one effect may have within a sliding window."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from engine.journal.protocol import BUDGET_PREFIX
from engine.language import duration
from engine.model.name_patterns import name_matcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.model.playbook import Budget, Guardrails

DIGEST = BUDGET_PREFIX + "digest:"
_MANY = 10_000
"""Windows from which on those that are over are looked for."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One step on one target. target: a pod's uid, a node, or the step itself. owner: controller's uid.

    mode: of the playbook; what only seems to be done must not use up what is meant for deeds.
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
    """A budget that is used up, and what then becomes of the step. per: its window, in seconds."""

    text: str
    then: Literal["hold", "drop", "digest"]
    per: float = 0.0


@dataclass(frozen=True, slots=True)
class ChargeResult:
    """What asking cost: the windows in which the target counts from now on; or what says no."""

    target: str
    keys: tuple[str, ...] = ()
    over: ExceededBudget | None = None


class BudgetLedger:
    """What was spent; thread-safe. Its clock never goes back.

    windows: key -> {"targets": {target: epoch seconds}, "until": …}. remember: puts changed windows
    (None: forgotten) on disk before anything is done; previews need none.
    """

    def __init__(
        self,
        windows: Mapping[str, Any] | None = None,
        remember: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._windows: dict[str, Any] = dict(windows or {})
        self._remember = remember
        self._clock = 0.0
        self._lock = threading.Lock()

    def take(self, guardrails: Guardrails, charge: Charge, now: float) -> ChargeResult:
        """Charge every budget that the step falls under, or none of them and say which is used up."""
        with self._lock:
            self._clock = max(self._clock, now)
            changes: dict[str, Any] = {}
            for budget, key in _falls_under(guardrails.budgets, charge):
                since = self._clock - budget.per
                spent = self._windows.get(key, {"targets": {}})["targets"]
                targets = {target: at for target, at in spent.items() if at > since}
                if charge.target in targets:
                    continue
                if len(targets) >= budget.limit:
                    then = budget.on_exceeded or guardrails.on_exceeded
                    return ChargeResult(
                        charge.target, over=ExceededBudget(_told(budget), then, budget.per)
                    )
                targets[charge.target] = self._clock
                changes[key] = {"targets": targets, "until": self._clock + budget.per}
            self._change(changes)
        return ChargeResult(charge.target, tuple(changes))

    def give_back(self, spent: ChargeResult) -> None:
        """Take the target out of the windows again, for it was not touched."""
        with self._lock:
            changes: dict[str, Any] = {}
            for key in spent.keys:
                window = self._windows.get(key, {"targets": {}})
                left = {t: at for t, at in window["targets"].items() if t != spent.target}
                changes[key] = {**window, "targets": left} if left else None
            self._change(changes)

    def left(self, guardrails: Guardrails) -> Iterator[tuple[Budget, int]]:
        """Of each budget, how many targets its fullest window has left; for those who enforce."""
        with self._lock:
            windows = {k: v for k, v in self._windows.items() if "targets" in v}
        for budget in guardrails.budgets:
            begins = (
                BUDGET_PREFIX + msgspec.json.encode(["enforce", *_text(budget)]).decode()[:-1] + ","
            )
            since = self._clock - budget.per
            used = [
                sum(at > since for at in window["targets"].values())
                for key, window in windows.items()
                if key.startswith(begins)
            ]
            yield budget, budget.limit - max(used, default=0)

    def count(self, key: str, per: float, now: float) -> bool:
        """Count one message more that is not sent; whether this one is to become the digest in ``per`` seconds.

        That is the first; and one that finds a digest overdue, which died with its run.
        """
        with self._lock:
            window = self._windows.get(DIGEST + key) or {"count": 0, "until": 0.0}
            carries = bool(window["count"] == 0 or window["until"] + per < now)
            until = now + per if carries else window["until"]
            self._change({DIGEST + key: {"count": window["count"] + 1, "until": until}})
        return carries

    def counted(self, key: str) -> int:
        """How many messages were not sent."""
        return int((self._windows.get(DIGEST + key) or {"count": 0})["count"])

    def told(self, key: str, count: int) -> None:
        """A digest told of so many."""
        with self._lock:
            left = self.counted(key) - count
            window = self._windows.get(DIGEST + key)
            self._change({DIGEST + key: {**window, "count": left} if window and left > 0 else None})

    def _change(self, changes: dict[str, Any]) -> None:
        if len(self._windows) > _MANY:
            gone = [key for key, window in self._windows.items() if window["until"] < self._clock]
            changes = dict.fromkeys(gone) | changes
        if changes and self._remember:
            self._remember(changes)
        for key, window in changes.items():
            if window is None:
                self._windows.pop(key, None)
            else:
                self._windows[key] = window


def _falls_under(budgets: tuple[Budget, ...], charge: Charge) -> Iterator[tuple[Budget, str]]:
    """The budgets that the step falls under, each with the key of its window."""
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
        acts = budget.actions is None or name_matcher(budget.actions)(charge.action)
        if acts and (budget.playbooks is None or name_matcher(budget.playbooks)(charge.playbook)):
            yield (
                budget,
                BUDGET_PREFIX + msgspec.json.encode([charge.mode, *_text(budget), value]).decode(),
            )


def _text(budget: Budget) -> list[Any]:
    """What tells a budget from others: it outlives a reload, and a restart."""
    told = [budget.effect, budget.scope, budget.limit, budget.per, *(budget.actions or ())]
    return told if budget.playbooks is None else [*told, list(budget.playbooks)]


def _told(budget: Budget) -> str:
    which = f" by {', '.join(budget.actions)}" if budget.actions else ""
    which += f" of {', '.join(budget.playbooks)}" if budget.playbooks else ""
    return (
        f"the budget of {budget.limit} targets{which} per {duration.text(budget.per)} "
        f"and {budget.scope} is used up ({budget.effect})"
    )
