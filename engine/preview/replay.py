"""Replay: count what playbooks would do on recorded events, in limited memory, with a few runs in full."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from engine.execution.guardrails import GuardrailChecker
from engine.model.event import identity
from engine.model.event_subject import subject_of
from engine.model.run import run_outcome
from engine.planning.matcher import PlaybookIndex
from engine.planning.planner import PlanningMemory
from engine.preview.preview import PreviewContext, preview

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.language.loader import PlaybookSet
    from engine.model.event import Event
    from engine.model.own_identity import OwnIdentity
    from engine.model.run import StepResult
    from engine.preview.preview import PreviewedRun

STATES = ("planned", "held", "refused", "skipped", "failed")
"""States of a step in a preview."""
NONE = "(none)"
"""Stands for a namespace or pod that the event does not name."""
_HOUR_NS = 3_600_000_000_000
_MAX_ROWS = 10_000
"""Rows of a table. An attacker can invent namespaces, pods and times; the rows with most counts stay."""
_MAX_NAME = 320
"""Characters of a name: a namespace, a slash and the name of a pod."""
_EXAMPLES_OF_A_KIND = 2
_EXAMPLES = 60

K = TypeVar("K")


class CountTable(Generic[K]):
    """Counts by name and column, in limited memory.

    If there are too many names, the half with the lowest counts is added to ``rest`` and removed. A frequent
    name stays, and a count is never too high. most: number of names. ranks: the sum of so many columns,
    from the first, is the order of the names.
    """

    def __init__(self, *columns: str, most: int = _MAX_ROWS, ranks: int = 99) -> None:
        self.columns = columns
        self.rest = [0] * len(columns)
        self._ranks = ranks
        self._most = most
        self._rows: dict[K, list[int]] = {}
        self._numbers = {column: number for number, column in enumerate(columns)}

    def add(self, name: K, column: str) -> None:
        """Add one to a count."""
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = [0] * len(self.columns)
            if len(self._rows) > self._most:
                self._forget()
                self._rows[name] = row
        row[self._numbers[column]] += 1

    def rows(self) -> list[tuple[K, dict[str, int]]]:
        """Return the names with their counts. The highest come first, equal ones in order of insertion."""
        return [(name, dict(zip(self.columns, row, strict=True))) for name, row in self._busiest()]

    def _busiest(self) -> list[tuple[K, list[int]]]:
        ranks = self._ranks
        return sorted(self._rows.items(), key=lambda item: sum(item[1][:ranks]), reverse=True)

    def _forget(self) -> None:
        busiest = self._busiest()
        for _, row in busiest[self._most // 2 :]:
            self.rest = [there + more for there, more in zip(self.rest, row, strict=True)]
        self._rows = dict(busiest[: self._most // 2])


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a step was not planned. why: without the name of the pod, so that equal reasons are grouped."""

    state: str
    playbook: str
    step: str
    why: str


@dataclass(frozen=True, slots=True)
class Example:
    """A run in full. event: without long values. id: identity of the event. line: of the event."""

    line: int
    id: str
    event: Event
    run: PreviewedRun


class PlaybookReplay:
    """Runs events through a set of playbooks, in their order. Throttles and budgets start empty."""

    def __init__(self, found: PlaybookSet, own: OwnIdentity) -> None:
        self.playbooks = PlaybookIndex(found.playbooks, found.silences)
        self._memory = PlanningMemory()
        self._checker = GuardrailChecker(found.guardrails, own)
        self._context = PreviewContext()

    def run(self, event: Event) -> list[PreviewedRun]:
        """Return the runs of an event. The clock is the event's time."""
        runs = preview(event, self.playbooks, self._memory, self._checker, self._context)
        if runs:
            self._memory.changes.clear()  # they are for a journal, which a replay does not have
        return runs


class Tally:
    """Counts events and their runs."""

    def __init__(self, playbooks: PlaybookIndex) -> None:
        self.asked = {playbook.name: playbook.mode for playbook in playbooks.all}
        self.counts: Counter[str] = Counter()
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.playbooks: CountTable[str] = CountTable("runs", "stopped", *STATES, ranks=2)
        self.actions: CountTable[str] = CountTable(*STATES)
        self.namespaces: CountTable[str] = CountTable("runs", "stopped")
        self.targets: CountTable[str] = CountTable("runs", "stopped")
        self.hours: CountTable[int] = CountTable("events", "runs", "stopped")
        self.stopped: CountTable[tuple[str, str]] = CountTable("runs")
        self.reasons: CountTable[Reason] = CountTable("steps")
        self.examples: list[Example] = []
        self._kinds: Counter[tuple[str, str]] = Counter()

    def add(self, line: int, event: Event, runs: Sequence[PreviewedRun]) -> None:
        """Count one event and its runs."""
        time_ns = event.time_ns
        if not event.timed:
            self.counts["untimed"] += 1
        else:
            if self.first_ns is None or time_ns < self.first_ns:
                self.first_ns = time_ns
            if self.last_ns is None or time_ns > self.last_ns:
                self.last_ns = time_ns
            self.hours.add(time_ns // _HOUR_NS, "events")
        self.counts["matched" if runs else "unmatched"] += 1
        for previewed in runs:
            self._add_run(line, event, previewed)

    def _add_run(self, line: int, event: Event, previewed: PreviewedRun) -> None:
        playbook, subject = previewed.run.playbook.name, subject_of(event)
        column = "stopped" if previewed.suppressed else "runs"
        self.counts[column] += 1
        self.playbooks.add(playbook, column)
        self.namespaces.add(named_target(subject.namespace), column)
        target = previewed.run.target
        self.targets.add(NONE if target == previewed.run.id else named_target(target), column)
        if event.timed:
            self.hours.add(event.time_ns // _HOUR_NS, column)
        if previewed.suppressed:
            self.stopped.add((playbook, previewed.suppressed), "runs")
            return
        actions = {step.name: step.action for step in previewed.run.steps}
        pod = f"{subject.namespace}/{subject.pod}"
        for result in previewed.results:
            why = _grouped(previewed.holds.get(result.step) or result.message, pod)
            self._add_step(playbook, actions[result.step], result, why)
        self._keep(line, event, previewed)

    def _add_step(self, playbook: str, action: str, result: StepResult, why: str) -> None:
        self.counts["steps"] += 1
        self.counts[result.state] += 1
        self.playbooks.add(playbook, result.state)
        self.actions.add(action, result.state)
        if result.state != "planned":
            self.reasons.add(Reason(result.state, playbook, result.step, why), "steps")
        else:
            self.counts["writes"] += len(result.calls)
            self.counts["messages"] += len(result.requests)

    def _keep(self, line: int, event: Event, previewed: PreviewedRun) -> None:
        """Keep the first runs of each playbook and outcome, without long values of the event."""
        kind = (previewed.run.playbook.name, run_outcome(previewed.results))
        if self._kinds[kind] < _EXAMPLES_OF_A_KIND and len(self.examples) < _EXAMPLES:
            self._kinds[kind] += 1
            self.examples.append(example(line, event, previewed))


def example(line: int, event: Event, previewed: PreviewedRun) -> Example:
    """Return a run with only the event's rule, namespace and pod."""
    slim = _slim(event)
    run = msgspec.structs.replace(previewed.run, event=slim)
    return Example(line, identity(event), slim, replace(previewed, run=run))


def _slim(event: Event) -> Event:
    subject = subject_of(event)
    fields = {"k8s.ns.name": subject.namespace, "k8s.pod.name": subject.pod}
    slim: Event = msgspec.structs.replace(
        event,
        rule=event.rule[:_MAX_NAME],
        hostname=event.hostname and event.hostname[:_MAX_NAME],
        output="",
        sent={},
        tags=(),
        fields={key: value[:_MAX_NAME] for key, value in fields.items() if value},
    )
    return slim


def named_target(text: str | None) -> str:
    """Return the name of a namespace or target, cut to 320 characters, or ``(none)``."""
    return text[:_MAX_NAME] if text else NONE


def _grouped(why: str, pod: str) -> str:
    """Return the reason without the parts that differ between events: the value, and the name of the pod."""
    if why[:1] in ("'", '"'):  # a value that a parameter does not allow: each one is different
        end = why.rfind(why[0])
        why = f"a value {why[end + 1 :].strip()}" if end > 0 else why
    return why.replace(pod, "…")[:_MAX_NAME]
