"""Two sets of playbooks on the same events: which events newly act, no longer act, or act otherwise.

A run acts where a step of it would be done, or be done with a person's leave; in ``mode: notify`` only
messages are done, in ``dryRun`` nothing. Runs are told apart by playbook and mode, and by their steps' names,
states, calls and requests; what they say in words (a budget's text) is no behaviour.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.replay import Table, example

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.event import Event
    from engine.preview import PreviewedRun
    from engine.replay import Example

Change = Literal["newly", "noLonger", "otherwise"]
CHANGES: tuple[Change, ...] = ("newly", "noLonger", "otherwise")
_EXAMPLES_OF_A_KIND = 2
_EXAMPLES = 30


@dataclass(frozen=True, slots=True)
class Difference:
    """One playbook's runs on one event, before and after; None where it runs nothing.

    stopped: what stopped the run that is missing (``throttle`` …), or None where the event was not wanted.
    """

    change: Change
    playbook: str
    old: Example | None
    new: Example | None
    stopped: str | None = None

    @property
    def either(self) -> Example:
        """The run as it is now, or else as it was."""
        there = self.new or self.old
        assert there is not None  # noqa: S101 - one that is on neither side is no difference
        return there


class Comparison:
    """Counts differences in bounded memory. playbooks: by playbook, events that it treats otherwise."""

    def __init__(self, name: str, commit: str) -> None:
        self.name = name
        self.commit = commit
        self.events: Counter[Change] = Counter()
        self.acting: Counter[str] = Counter()
        self.playbooks: Table[str] = Table(*CHANGES)
        self.examples: list[Difference] = []
        self._kinds: Counter[tuple[Change, str]] = Counter()

    @property
    def differs(self) -> bool:
        """Whether any event is treated otherwise."""
        return bool(self.events)

    def add(
        self, line: int, event: Event, old: Sequence[PreviewedRun], new: Sequence[PreviewedRun]
    ) -> None:
        """Compare the runs of one event."""
        before, after = _unsuppressed(old), _unsuppressed(new)
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
            if self._wants(change, name):
                before_it = example(line, event, was) if was else None
                after_it = example(line, event, now) if now else None
                self.examples.append(
                    Difference(change, name, before_it, after_it, stopped.get(name))
                )

    def _wants(self, change: Change, playbook: str) -> bool:
        """Whether another example of the kind is to be kept."""
        kind = (change, playbook)
        if self._kinds[kind] >= _EXAMPLES_OF_A_KIND or len(self.examples) >= _EXAMPLES:
            return False
        self._kinds[kind] += 1
        return True


def _unsuppressed(runs: Sequence[PreviewedRun]) -> Mapping[str, PreviewedRun]:
    return {run.run.playbook.name: run for run in runs if run.suppressed is None}


def _change(*, acted: bool, acts: bool) -> Change:
    if acted == acts:
        return "otherwise"
    return "newly" if acts else "noLonger"


def _acts(run: PreviewedRun) -> bool:
    mode = run.run.playbook.mode
    if mode == "dryRun":
        return False
    effects = {step.name: step.effect for step in run.run.steps}
    return any(
        result.state in ("planned", "held")
        and (mode != "notify" or effects[result.step] == "notify")
        for result in run.results
    )


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
