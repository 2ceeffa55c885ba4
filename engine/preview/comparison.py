"""Compare two sets of playbooks on the same events: which actions act more or less, which events change.

A step acts if it would be done, with or without an approval. In ``mode: notify`` only messages act, in
``dryRun`` nothing acts. A change of ``mode`` is therefore counted by the actions that start or stop acting.
Runs are compared by playbook and mode, and by the names, states, calls and requests of their steps. The text
of a message is not compared.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.actions.registry import load_actions
from engine.model.event_subject import subject_of
from engine.preview.replay import CountTable, example, named_target

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from engine.model.event import Event
    from engine.model.playbook import Step
    from engine.model.run import StepResult
    from engine.preview.preview import PreviewedRun
    from engine.preview.replay import Example

ChangeKind = Literal["newly", "noLonger", "otherwise"]
CHANGES: tuple[ChangeKind, ...] = ("newly", "noLonger", "otherwise")
EFFECTS: tuple[str, ...] = ("disrupt", "mark", "observe", "notify")
"""The order of effects: destructive ones first."""
_EXAMPLES_OF_A_KIND = 2
_EXAMPLES = 30
_TARGETS = 100_000
"""Targets that are remembered over all actions. Each needs about 150 bytes."""
_OLD, _NEW = 1, 2


@dataclass(frozen=True, slots=True)
class Difference:
    """The old and the new run of a playbook on an event; None if it does not run.

    stopped: why the missing run is suppressed (``throttle``, …), or None if the playbook does not match.
    """

    change: ChangeKind
    playbook: str
    old: Example | None
    new: Example | None
    stopped: str | None = None

    @property
    def either(self) -> Example:
        """The new run, or the old run if the playbook no longer runs."""
        there = self.new or self.old
        assert there is not None  # noqa: S101 - a difference has at least one run
        return there


@dataclass(frozen=True, slots=True)
class TargetCount:
    """A number of targets, and of their namespaces."""

    targets: int
    namespaces: int


@dataclass(frozen=True, slots=True)
class ActionDifference:
    """What changes in the use of an action.

    Attributes:
        old, new: number of steps that act.
        otherwise: steps that act on both sides with different calls or requests, or that are held on one
            side only.
        begins: targets that only the new side acts on.
        ceases: targets that only the old side acts on.
        complete: False if there were too many targets. ``begins`` and ``ceases`` are then minimums.

    """

    action: str
    effect: str
    old: int
    new: int
    otherwise: int
    begins: TargetCount
    ceases: TargetCount
    complete: bool


class ActionDifferences:
    """Counts the steps that act and their targets, by action and side, in limited memory."""

    def __init__(self, most: int = _TARGETS) -> None:
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._targets: dict[tuple[str, str], dict[tuple[str | None, str], int]] = {}
        self._targets_left = most
        self._complete = True

    def add(self, event: Event, old: Iterable[PreviewedRun], new: Iterable[PreviewedRun]) -> None:
        """Count the steps of the old and the new runs on an event."""
        before, after = self._side(event, old, _OLD), self._side(event, new, _NEW)
        for action in before.keys() & after.keys():
            if before[action] != after[action]:
                self._counts[action][2] += _differing(before[action], after[action])

    def differences(self) -> list[ActionDifference]:
        """Return the actions whose use differs, sorted by effect. Actions that cannot be undone come first."""
        found = [self._difference(action) for action in self._counts]
        none = TargetCount(0, 0)
        known = load_actions()
        return sorted(
            (
                one
                for one in found
                if one.old != one.new or one.otherwise or (one.begins, one.ceases) != (none, none)
            ),
            key=lambda one: (
                EFFECTS.index(one.effect),
                known[one.action].undoable,
                -abs(one.new - one.old),
                one.action,
            ),
        )

    def _side(
        self, event: Event, runs: Iterable[PreviewedRun], side: int
    ) -> dict[tuple[str, str], list[StepResult]]:
        """Count the steps that act. Return their results by action and effect."""
        found: dict[tuple[str, str], list[StepResult]] = {}
        for run in runs:
            for step, result in _acting(run):
                action = step.action, step.effect
                found.setdefault(action, []).append(result)
                self._counts.setdefault(action, [0, 0, 0])[side - 1] += 1
                if run.run.target != run.run.id:
                    target = subject_of(event).namespace, named_target(run.run.target)
                    self._reach(action, target, side)
        return found

    def _reach(self, action: tuple[str, str], target: tuple[str | None, str], side: int) -> None:
        targets = self._targets.setdefault(action, {})
        if target in targets:
            targets[target] |= side
        elif self._targets_left:
            self._targets_left -= 1
            targets[target] = side
        else:
            self._complete = False

    def _difference(self, action: tuple[str, str]) -> ActionDifference:
        old, new, otherwise = self._counts[action]
        targets = self._targets.get(action, {})
        begins, ceases = (
            [target for target, sides in targets.items() if sides == side] for side in (_NEW, _OLD)
        )
        return ActionDifference(
            *action, old, new, otherwise, _reach(begins), _reach(ceases), self._complete
        )


class Comparison:
    """Counts the differences between an old and a new set, in limited memory.

    Attributes:
        name, commit: of the old revision.
        events: events that change, by kind of change.
        acting: events on which the ``old`` and the ``new`` set act.
        actions: differences by action.
        playbooks: events that change, by playbook and kind of change.
        examples: a few differences in full.

    """

    def __init__(self, name: str, commit: str) -> None:
        self.name = name
        self.commit = commit
        self.events: Counter[ChangeKind] = Counter()
        self.acting: Counter[str] = Counter()
        self.actions = ActionDifferences()
        self.playbooks: CountTable[str] = CountTable(*CHANGES)
        self.examples: list[Difference] = []
        self._kinds: Counter[tuple[ChangeKind, str]] = Counter()

    @property
    def differs(self) -> bool:
        """Whether any event changes."""
        return bool(self.events)

    def add(
        self, line: int, event: Event, old: Sequence[PreviewedRun], new: Sequence[PreviewedRun]
    ) -> None:
        """Compare the old and the new runs on an event. line: of the event."""
        before, after = _unsuppressed(old), _unsuppressed(new)
        self.actions.add(event, before.values(), after.values())
        acted, acts = any(map(_acts, before.values())), any(map(_acts, after.values()))
        self.acting["old"] += acted
        self.acting["new"] += acts
        changed = [
            name
            for name in sorted(before.keys() | after.keys())
            if not _same(before.get(name), after.get(name))
        ]
        if not changed:
            return
        self.events[_change(acted=acted, acts=acts)] += 1
        stopped = {run.run.playbook.name: run.suppressed for run in (*old, *new) if run.suppressed}
        for name in changed:
            was, now = before.get(name), after.get(name)
            change = _change(acted=bool(was and _acts(was)), acts=bool(now and _acts(now)))
            self.playbooks.add(name, change)
            if self._keeps_example(change, name):
                before_it = example(line, event, was) if was else None
                after_it = example(line, event, now) if now else None
                self.examples.append(
                    Difference(change, name, before_it, after_it, stopped.get(name))
                )

    def _keeps_example(self, change: ChangeKind, playbook: str) -> bool:
        """Return whether to keep another example of this kind, and count it."""
        kind = (change, playbook)
        if self._kinds[kind] >= _EXAMPLES_OF_A_KIND or len(self.examples) >= _EXAMPLES:
            return False
        self._kinds[kind] += 1
        return True


def _unsuppressed(runs: Sequence[PreviewedRun]) -> Mapping[str, PreviewedRun]:
    return {run.run.playbook.name: run for run in runs if run.suppressed is None}


def _change(*, acted: bool, acts: bool) -> ChangeKind:
    if acted == acts:
        return "otherwise"
    return "newly" if acts else "noLonger"


def _acts(run: PreviewedRun) -> bool:
    return any(True for _ in _acting(run))


def _acting(run: PreviewedRun) -> Iterator[tuple[Step, StepResult]]:
    """Yield the steps that would be done, with or without an approval."""
    mode = run.run.playbook.mode
    if mode == "dryRun":
        return
    steps = {step.name: step for step in run.run.steps}
    for result in run.results:
        step = steps[result.step]
        if result.state in ("planned", "held") and (mode != "notify" or step.effect == "notify"):
            yield step, result


def _differing(old: Sequence[StepResult], new: Sequence[StepResult]) -> int:
    """Return the number of steps that are on both sides and differ."""
    left = [_behaviour(result) for result in old]
    extra = 0
    for result in new:
        behaviour = _behaviour(result)
        if behaviour in left:
            left.remove(behaviour)
        else:
            extra += 1
    return min(len(left), extra)


def _behaviour(result: StepResult) -> tuple[object, ...]:
    return result.state, result.calls, result.requests


def _reach(targets: Sequence[tuple[str | None, str]]) -> TargetCount:
    return TargetCount(len(targets), len({namespace for namespace, _ in targets if namespace}))


def _same(old: PreviewedRun | None, new: PreviewedRun | None) -> bool:
    if old is None or new is None:
        return old is new
    if old.run.playbook.mode != new.run.playbook.mode or len(old.results) != len(new.results):
        return False
    return all(
        was.step == now.step
        and was.state == now.state
        and was.calls == now.calls
        and was.requests == now.requests
        for was, now in zip(old.results, new.results, strict=True)
    )
