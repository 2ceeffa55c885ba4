"""The parts that all output formats of a replay share: texts, time bars, and the difference of two runs."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from engine.model.event import format_time
from engine.render.text import count, short

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from engine.preview.comparison import (
        ActionDifference,
        ChangeKind,
        Comparison,
        Difference,
        TargetCount,
    )
    from engine.preview.event_log import EventLog
    from engine.preview.preview import PreviewedRun
    from engine.preview.replay import Example, Tally

T = TypeVar("T")

HOUR = 3_600
_WIDTHS = (1, 2, 3, 6, 12, 24, 48, 96, 168)
_MAX_LINES = 400
WORDS: Mapping[ChangeKind, str] = {
    "newly": "newly act",
    "noLonger": "no longer act",
    "otherwise": "act differently",
}


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """A finished replay. file: as the user named it. comparison: with ``--against``."""

    file: str
    recording: EventLog
    tally: Tally
    comparison: Comparison | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the time chart. start: its first minute. counts: events, runs, stopped."""

    start: str
    counts: Mapping[str, int]


def bars(tally: Tally, most: int) -> tuple[int, list[Bar]]:
    """Return the hours per bar, and at most ``most`` consecutive bars.

    If the times of the events need more, the last bars are returned: the other times are probably wrong.
    """
    hours = dict(tally.hours.rows())
    if not hours:
        return 1, []
    total = max(hours) - min(hours) + 1
    width = next((hours for hours in _WIDTHS if total // hours + 1 < most), 0)
    if not width:
        width = _WIDTHS[-1] * (total // most // _WIDTHS[-1] + 1)
    sums: dict[int, dict[str, int]] = {}
    for hour, counts in hours.items():
        row = sums.setdefault(hour // width, dict.fromkeys(counts, 0))
        for column, number in counts.items():
            row[column] += number
    empty = dict.fromkeys(tally.hours.columns, 0)
    first, last = min(sums), max(sums)
    return width, [
        Bar(format_minute(bar * width * HOUR * 10**9), sums.get(bar, empty))
        for bar in range(max(first, last - most + 1), last + 1)
    ]


def format_minute(ns: int) -> str:
    """Return a time in UTC, to the minute."""
    return format_time(ns)[:16].replace("T", " ")


def time_span(tally: Tally) -> str:
    """Return the first and last time of the events. Empty if no event has a time."""
    if tally.first_ns is None or tally.last_ns is None:
        return ""
    first, last = format_minute(tally.first_ns), format_minute(tally.last_ns)
    return f"{first} UTC" if first == last else f"{first} to {last} UTC"


def input_summary(report: ReplayReport) -> str:
    """Return what the file contains, in one line."""
    recording, counts = report.recording, report.tally.counts
    parts = [f"{counts['matched']:,} matched a playbook", f"{counts['unmatched']:,} matched none"]
    if counts["untimed"]:
        parts.append(f"{counts['untimed']:,} without a time")
    if recording.other_lines:
        parts.append(f"{count(recording.other_lines, 'line')} of other text")
    if recording.unreadable:
        parts.append(f"{count(recording.unreadable, 'line')} could not be read")
    return ", ".join(parts)


def totals(report: ReplayReport) -> str:
    """Return the last line."""
    counts = report.tally.counts
    words = (("runs", "run"), ("steps", "step"), ("writes", "write"), ("messages", "message"))
    parts = [count(report.recording.events, "event")]
    parts += [count(counts[key], word) for key, word in words]
    parts += [f"{counts[key]:,} {key}" for key in ("held", "refused", "failed") if counts[key]]
    return f"{', '.join(parts)}; {count(counts['stopped'], 'run')} stopped. Nothing was changed."


def stopped_by(tally: Tally) -> list[tuple[str, str, int]]:
    """Return (playbook, why, number of runs), the most frequent first."""
    return [(playbook, why, row["runs"]) for (playbook, why), row in tally.stopped.rows()]


def unmatched_playbooks(tally: Tally) -> list[str]:
    """Return the playbooks that matched no event."""
    busy = {name for name, _ in tally.playbooks.rows()}
    return [name for name in tally.asked if name not in busy]


def pick_varied(items: Sequence[T], kind: Callable[[T], Hashable], most: int) -> list[T]:
    """Return ``most`` of the items, with as many different kinds as possible."""
    seen: Counter[Hashable] = Counter()
    ranked = []
    for number, item in enumerate(items):
        seen[kind(item)] += 1
        ranked.append((seen[kind(item)], number, item))
    return [item for _, _, item in sorted(ranked, key=lambda rank: rank[:2])[:most]]


def pick_examples(tally: Tally, most: int) -> list[Example]:
    """Return ``most`` of the examples, from as many playbooks as possible."""
    return pick_varied(tally.examples, lambda one: one.run.run.playbook.name, most)


def pick_differences(comparison: Comparison, most: int) -> list[Difference]:
    """Return ``most`` of the differences, of as many changes and playbooks as possible."""
    return pick_varied(comparison.examples, lambda one: (one.change, one.playbook), most)


def change_text(difference: Difference) -> str:
    """Return the change as text, for example ``newly acts``, and what stopped the other run."""
    words = WORDS[difference.change].replace("act", "acts")
    side = "now" if difference.new is None else "before"
    return f"{words} ({side}: {difference.stopped})" if difference.stopped else words


def action_change_text(difference: ActionDifference) -> str:
    """Return a change as text, for example ``pod.delete 105 -> 803, 693 new targets in 3 namespaces``."""
    parts = [f"{difference.action} {difference.old:,} -> {difference.new:,}"]
    least = "" if difference.complete else "at least "
    if difference.begins.targets:
        parts.append(f"{least}{_target_text(difference.begins, 'new target')}")
    if difference.ceases.targets:
        parts.append(f"{least}{_target_text(difference.ceases, 'target')} no longer")
    if difference.otherwise:
        parts.append(f"{difference.otherwise:,} differently")
    return ", ".join(parts)


def _target_text(targets: TargetCount, what: str) -> str:
    where = f" in {count(targets.namespaces, 'namespace')}" if targets.namespaces else ""
    return f"{count(targets.targets, what)}{where}"


NO_ACTION = "No action is used more, less or differently."


def comparison_summary(comparison: Comparison) -> str:
    """Return the result of the comparison in one sentence."""
    revision = f"{comparison.name} ({comparison.commit[:10]})"
    if not comparison.differs:
        return f"No event is handled differently than by {revision}."
    changes = [
        f"{comparison.events[change]:,} {words}"
        for change, words in WORDS.items()
        if comparison.events[change]
    ]
    return f"Against {revision}: of the events, {', '.join(changes)}."


def changed_lines(difference: Difference) -> Iterator[str]:
    """Yield what differs between two runs. Each line begins with + or -."""
    old = [] if difference.old is None else _run_lines(difference.old.run)
    new = [] if difference.new is None else _run_lines(difference.new.run)
    for line in difflib.unified_diff(old, new, n=0, lineterm=""):
        if line[0] in "+-" and line[:3] not in ("+++", "---"):
            yield f"{line[0]} {line[1:]}"


def _run_lines(previewed: PreviewedRun) -> list[str]:
    """Return a run as lines. Each line names the step and the path of its value."""
    lines = [f"mode {previewed.run.playbook.mode}"]
    for result in previewed.results:
        lines.append(f"{result.step}  {result.state}  {short(result.message)}")
        for call in result.calls:
            where = f" in {call.namespace}" if call.namespace else ""
            about = f"{result.step}  {call.verb} {call.resource}/{call.name}{where}"
            lines += [f"{about}  {leaf}" for leaf in _value_lines(call.body, "")] or [about]
        for request in result.requests:
            about = f"{result.step}  {request.method} {request.url}"
            lines += [f"{about}  {leaf}" for leaf in _value_lines(request.body, "")]
    return [short(line, 400) for line in lines[:_MAX_LINES]]


def _value_lines(value: Any, path: str) -> Iterator[str]:
    """Yield one line for each value, for example ``metadata.labels.team="a"``."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _value_lines(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from _value_lines(item, f"{path}[{number}]")
    else:
        yield f"{path}={json.dumps(value, ensure_ascii=False)}"
