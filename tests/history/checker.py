"""Check a recorded history: what several replicas promise, one function for each statement.

Pure: the input is a History, the output names the runs and rows that violate a statement.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tests.history.claims import changes_by_target, late_writes, overtaken_writes, recoveries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.history.records import Effect, History, QueueEvent, Sent

ON_THEIR_WAY = 2
"""Writes of one process that may arrive after its claims were taken over, for each time that it counted as dead.

A process checks its liveness row directly before it sends a request. If it is stopped between the check and the
sending, the request arrives late. No later request may.
"""


@dataclass(frozen=True, slots=True)
class Violation:
    """A statement that does not hold. rows: ids of runs, or the targets and times that show it."""

    statement: str
    what: str
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a check. figures: numbers of records, by name."""

    violations: tuple[Violation, ...]
    figures: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON: the figures, and the violations with their rows."""
        return {**self.figures, "violations": [asdict(one) for one in self.violations]}

    def text(self) -> str:
        """Return the report as text: one line of figures, then one line for each violation."""
        counted = {**self.figures, "violations": len(self.violations)}
        figures = ", ".join(f"{name} {value:g}" for name, value in counted.items())
        lines = [f"{v.statement}: {v.what} ({', '.join(v.rows)})" for v in self.violations]
        return "\n".join([figures, *lines])


def check(history: History) -> Report:
    """Check every statement."""
    violations = [
        Violation(statement, what, rows)
        for statement, holds in STATEMENTS.items()
        for what, rows in holds(history)
    ]
    return Report(tuple(violations), _figures(history))


Found = tuple[str, tuple[str, ...]]


def _no_acknowledged_run_is_lost(history: History) -> Iterator[Found]:
    rows = {row.run: row for row in history.rows}
    acted = {(row.playbook, row.target) for row in history.rows}
    sent = {one.number: one for one in history.sent}
    for run, (_, number) in _acknowledged(history).items():
        row, event = rows.get(run), sent[number]
        if row is None:
            # a spool acknowledges a run before its throttle is decided
            is_once = history.limits.spooling and event.rule in history.limits.once
            if is_once and (event.rule, event.target) in acted:
                continue
            yield f"the run of event {number} was acknowledged and has no row", (run,)
        elif row.state is not None:
            yield f"the run of event {number} is not over, but {row.state}", (run,)
    reached = {effect.run for effect in history.effects if effect.applied}
    for row in history.rows:
        if row.outcome == "done" and row.run not in reached:
            yield f"a run of {row.playbook} is done, and no server saw its effect", (row.run,)
    for effect in history.effects:
        if effect.run and effect.run not in rows:
            yield f"a write to {effect.target} belongs to no run of the journal", (effect.run,)


def _no_effect_is_doubled(history: History) -> Iterator[Found]:
    excused = {row.run for row in history.rows if row.may_have_run}
    requests = Counter(e.run for e in history.effects if e.kind == "request" and e.applied)
    for run, times in requests.items():
        if times > 1 and run not in excused:
            yield f"a request was sent {times} times", (run,)
    # writes of repeatable steps may be repeated, but not after their run has ended
    ended = {one.run: one for one in history.queue if one.what == "settled" and not one.undoes}
    late = late_writes(history)
    for effect in history.effects:
        over = ended.get(effect.run)
        if over and not effect.undo and effect.began > over.at and effect not in late:
            yield f"a write to {effect.target} began after the end of its run", (effect.run,)


def _one_attempt_on_one_target(history: History) -> Iterator[Found]:
    for target, changes in changes_by_target(history).items():
        yield from _overlapping_claims(target, changes)
    yield from _overlapping_writes(history)
    yield from _too_many_late_writes(history)


def _overlapping_claims(target: str, changes: list[QueueEvent]) -> Iterator[Found]:
    """Check that at most one run of a target is claimed, and that only its holder settles it."""
    active: dict[str, QueueEvent] = {}
    freed: dict[str, QueueEvent] = {}
    for one in changes:
        if one.what != "settled" and one.live:
            yield f"{target}: {one.what} while its lease was in force", (one.run,)
        before = active.pop(one.run, None)
        if one.what == "claimed":
            for run in active:
                yield f"{target}: claimed while another run was claimed", (one.run, run)
            active[one.run] = one
        elif one.what == "freed" and before is not None:
            freed[one.run] = before  # until it is claimed again, its holder may still settle it
        elif one.what == "settled":
            holder = before or freed.get(one.run)
            if holder is None or holder.process != one.process:
                held = f"{holder.process} held it" if holder else "nobody held it"
                yield f"{target}: settled by {one.process} with an old fence; {held}", (one.run,)


def _overlapping_writes(history: History) -> Iterator[Found]:
    excused = late_writes(history).keys() | overtaken_writes(history)
    by_target: dict[str, list[Effect]] = defaultdict(list)
    for effect in history.effects:
        if effect not in excused:
            by_target[effect.target].append(effect)
    for target, effects in by_target.items():
        effects.sort(key=lambda effect: effect.began)
        for first, second in pairwise(effects):
            if second.began < first.ended:
                yield f"{target}: two writes at once", (first.run, second.run)


def _too_many_late_writes(history: History) -> Iterator[Found]:
    deaths = Counter(one.process for one in history.queue if one.what == "died")
    by_process: dict[str, list[str]] = defaultdict(list)
    for effect, run in late_writes(history).items():
        by_process[effect.process].append(run)
    for process, runs in by_process.items():
        allowed = deaths[process] * ON_THEIR_WAY
        if len(runs) > allowed:
            what = f"{process} wrote {len(runs)} times without a claim; {allowed} may have been on their way"
            yield what, tuple(runs)


def _the_order_per_target_is_kept(history: History) -> Iterator[Found]:
    acknowledged = _acknowledged(history)
    sent: dict[int, list[Sent]] = defaultdict(list)
    for one in history.sent:
        sent[one.number].append(one)
    for target, runs in _first_claims(history).items():
        order = [run for run in runs if run in acknowledged]
        for number, earlier in enumerate(order):
            requests = sent[acknowledged[earlier][1]]
            for later in order[number + 1 :]:
                ended, event = acknowledged[later]
                if ended >= requests[0].began or _may_overtake(history, requests, sent[event]):
                    continue
                what = f"{target}: claimed before a run that was acknowledged earlier"
                yield what, (earlier, later)


def _may_overtake(history: History, requests: list[Sent], before: list[Sent]) -> bool:
    """Whether an event can overtake one that was acknowledged before, because that one waits in a spool.

    requests, before: all requests with the two events. Within one spool, the order is kept.
    """
    spooled = {one.replica for one in before} & history.limits.spooling
    return bool(spooled) and {one.replica for one in requests} != spooled


def _acknowledged(history: History) -> dict[str, tuple[float, int]]:
    """Return the time of the first acknowledgement of each run, and the number of its event."""
    found: dict[str, tuple[float, int]] = {}
    for one in history.sent:
        for run in one.runs:
            found[run] = min((one.ended, one.number), found.get(run, (one.ended, one.number)))
    return found


def _first_claims(history: History) -> dict[str, list[str]]:
    """Return the runs of each target in the order of their first claims."""
    found: dict[str, list[str]] = {}
    for target, changes in changes_by_target(history).items():
        runs = (one.run for one in changes if one.what == "claimed" and not one.undoes)
        found[target] = list(dict.fromkeys(runs))
    return found


def _acting(history: History) -> Iterator[tuple[str, Effect]]:
    """Yield the rule of each write that has an effect, with the write. Runs that may have run are left out."""
    rows = {row.run: row for row in history.rows}
    for effect in history.effects:
        row = rows.get(effect.run)
        if row and effect.applied and not effect.undo and not row.may_have_run:
            yield row.playbook, effect


def _no_budget_is_exceeded(history: History) -> Iterator[Found]:
    touched: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for playbook, effect in _acting(history):
        if playbook in history.limits.few:
            namespace = effect.target.partition("/")[0]
            touched[playbook, namespace].setdefault(effect.target, effect.run)
    for (playbook, namespace), targets in touched.items():
        limit = history.limits.few[playbook]
        if len(targets) > limit:
            what = (
                f"{playbook} touched {len(targets)} targets in {namespace}; its budget is {limit}"
            )
            yield what, tuple(targets.values())


def _no_throttle_is_passed(history: History) -> Iterator[Found]:
    acted: dict[tuple[str, str], set[str]] = defaultdict(set)
    for playbook, effect in _acting(history):
        if playbook in history.limits.once:
            acted[playbook, effect.target].add(effect.run)
    for (playbook, target), runs in acted.items():
        if len(runs) > 1:
            yield f"{playbook} acted {len(runs)} times on {target}", tuple(sorted(runs))


def _every_undo_is_done(history: History) -> Iterator[Found]:
    for undo in history.undo_intents:
        yield "a scheduled undo is still in the journal", (undo,)
    for target in history.left:
        yield f"{target} still has what an undo removes", (target,)
    for row in history.rows:
        if row.playbook in history.limits.until and row.outcome == "done":
            states = [state for _, state, _ in row.results]
            if "undone" not in states:
                yield f"a step of {row.playbook} is {', '.join(states)}, not undone", (row.run,)


STATEMENTS: dict[str, Callable[[History], Iterator[Found]]] = {
    "no acknowledged run is lost": _no_acknowledged_run_is_lost,
    "no effect is doubled": _no_effect_is_doubled,
    "no two attempts on one target at once": _one_attempt_on_one_target,
    "the order per target is kept": _the_order_per_target_is_kept,
    "no budget is exceeded": _no_budget_is_exceeded,
    "no throttle is passed": _no_throttle_is_passed,
    "every undo is done": _every_undo_is_done,
}


def _figures(history: History) -> dict[str, float]:
    faults = Counter(fault.kind for fault in history.faults)
    answers = Counter(one.status for one in history.sent)
    return {
        "kills": faults["kill"],
        "pauses": faults["pause"],
        "partitions": faults["partition"],
        "fail_overs": faults["fail-over"],
        "events": len({one.number for one in history.sent}),
        "requests": len(history.sent),
        "acknowledged": answers[202],
        "refused": answers[503],
        "unanswered": answers[0],
        "runs": len(history.rows),
        "claims": sum(one.what == "claimed" for one in history.queue),
        "claims_taken_over": sum(one.what == "freed" for one in history.queue),
        "writes": len(history.effects),
        "writes_on_their_way": len(late_writes(history)) + len(overtaken_writes(history)),
        "may_have_run": sum(row.may_have_run for row in history.rows),
        "undone": sum(state == "undone" for row in history.rows for _, state, _ in row.results),
        **_percentiles("replica_recovery_s", recoveries(history, "kill")),
        **_percentiles("recovery_without_another_fault_s", recoveries(history, "kill", alone=True)),
        **_percentiles("primary_recovery_s", recoveries(history, "fail-over")),
    }


def _percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the number of some durations."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    at = {"p50": len(ordered) // 2, "p99": len(ordered) * 99 // 100}
    return {f"{name}_{part}": round(ordered[place], 2) for part, place in at.items()} | {
        f"{name}_count": len(ordered)
    }
