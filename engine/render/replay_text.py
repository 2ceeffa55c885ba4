"""A replay as text: tables sorted by frequency, and a summary in the last line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.model.safe_text import printable
from engine.preview.replay import STATES
from engine.render.plan_text import headline, step_lines
from engine.render.replay_view import (
    NO_ACTION,
    WORDS,
    action_change_text,
    bars,
    change_text,
    changed_lines,
    comparison_summary,
    input_summary,
    pick_differences,
    pick_examples,
    stopped_by,
    time_span,
    totals,
    unmatched_playbooks,
)
from engine.render.text import count, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.preview.comparison import ChangeKind, Comparison, Difference
    from engine.preview.replay import CountTable, Tally
    from engine.render.replay_view import ReplayReport

_ROWS = 10
_BARS = 24
_BAR = 40
_EXAMPLES = 4
_DIFFERENCES = 8
_LINES = 12
_NAME = 52
_COLOURS = {
    "runs": "cyan", "planned": "cyan", "held": "blue", "refused": "magenta", "skipped": "yellow",
    "failed": "red", "stopped": "yellow",
}  # fmt: skip
_SIGNS: Mapping[ChangeKind, tuple[str, str]] = {
    "newly": ("+", "green"), "noLonger": ("-", "red"), "otherwise": ("~", "yellow"),
}  # fmt: skip


def replay_lines(report: ReplayReport) -> Iterator[str]:
    """Yield the text of a replay. With a comparison, yield only that, the difference by action first."""
    tally = report.tally
    if report.comparison is not None:
        yield from _actions(report.comparison)
    title = [short(report.file, 80), count(report.recording.events, "event"), time_span(tally)]
    yield click.style("  ".join(part for part in title if part), bold=True)
    yield f"  {input_summary(report)}"
    if report.comparison is not None:
        yield from _compared(report.comparison)
        return
    yield from _playbooks(tally)
    yield from _table("Action", tally.actions, STATES)
    yield from _table("Namespace", tally.namespaces, ("runs", "stopped"))
    yield from _hours(tally)
    yield from _stopped(tally)
    yield from _reasons(tally)
    yield from _table("Busiest targets", tally.targets, ("runs", "stopped"))
    yield from _examples(tally)
    yield ""
    yield totals(report)


def _playbooks(tally: Tally) -> Iterator[str]:
    columns = ("runs", "stopped", *STATES)
    modes = {name: f"{name} ({mode})" for name, mode in tally.asked.items() if mode != "enforce"}
    rows = [(modes.get(name, name), row) for name, row in tally.playbooks.rows()]
    yield from _rows("Playbook", columns, rows, len(rows))
    unmatched = unmatched_playbooks(tally)
    if unmatched:
        line = f"{count(len(unmatched), 'playbook')} matched no event: {', '.join(unmatched)}"
        yield click.style(f"  {short(line, 160)}", dim=True)


def _table(title: str, table: CountTable[str], columns: Sequence[str]) -> Iterator[str]:
    rows = table.rows()
    yield from _rows(title, columns, rows, _ROWS, forgotten=any(table.rest))


def _rows(
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Mapping[str, int]]],
    most: int,
    *,
    forgotten: bool = False,
) -> Iterator[str]:
    if not rows:
        return
    shown = [column for column in columns if any(row[column] for _, row in rows)]
    names = [short(name, _NAME) for name, _ in rows[:most]]
    wide = max(len(title), *map(len, names))
    yield ""
    head = "".join(f"{column:>10}" for column in shown)
    yield click.style(f"{title:<{wide + 2}}{head}", bold=True)
    for name, (_, row) in zip(names, rows, strict=False):
        yield f"  {name:<{wide}}" + "".join(_number(column, row[column]) for column in shown)
    if len(rows) > most:
        more = f"{len(rows) - most:,} more" + (
            ", and others that were not recorded" if forgotten else ""
        )
        yield click.style(f"  {more}", dim=True)


def _number(column: str, number: int) -> str:
    text = f"{number:>10,}" if number else f"{'·':>10}"
    return click.style(text, fg=_COLOURS[column]) if number else click.style(text, dim=True)


def _hours(tally: Tally) -> Iterator[str]:
    width, found = bars(tally, _BARS)
    most = max((bar.counts["runs"] + bar.counts["stopped"] for bar in found), default=0)
    if not most:
        return
    yield ""
    each = "hour" if width == 1 else f"{width} hours"
    yield click.style(f"Runs per {each}", bold=True) + click.style("  (░ stopped)", dim=True)
    for bar in found:
        runs, stopped = bar.counts["runs"], bar.counts["stopped"]
        long = -(-runs * _BAR // most)
        drawn = click.style("█" * long, fg="cyan") + click.style(
            "░" * (-(-stopped * _BAR // most)), fg="yellow"
        )
        yield f"  {bar.start}  {runs:>8,}  {drawn}".rstrip()


def _stopped(tally: Tally) -> Iterator[str]:
    rows = stopped_by(tally)
    if not rows:
        return
    yield ""
    yield click.style("What stopped runs", bold=True)
    wide = max(len(short(why, 40)) for _, why, _ in rows[:_ROWS])
    for playbook, why, runs in rows[:_ROWS]:
        by = click.style(f"{short(why, 40):<{wide}}", fg="yellow")
        yield f"  {runs:>8,}  {by}  {short(playbook, _NAME)}"
    if len(rows) > _ROWS:
        yield click.style(f"  {len(rows) - _ROWS:,} more", dim=True)


def _reasons(tally: Tally) -> Iterator[str]:
    rows = tally.reasons.rows()
    if not rows:
        return
    yield ""
    yield click.style("Steps held, refused, skipped or failed", bold=True)
    steps = [short(f"{reason.playbook}/{reason.step}", _NAME) for reason, _ in rows[:_ROWS]]
    wide = max(map(len, steps))
    for step, (reason, row) in zip(steps, rows, strict=False):
        state = click.style(f"{reason.state:<7}", fg=_COLOURS[reason.state])
        yield f"  {row['steps']:>8,}  {state}  {step:<{wide}}  {short(reason.why, 110)}"
    if len(rows) > _ROWS:
        yield click.style(f"  {len(rows) - _ROWS:,} more", dim=True)


def _examples(tally: Tally) -> Iterator[str]:
    if not tally.examples:
        return
    yield ""
    yield click.style("Examples", bold=True)
    for one in pick_examples(tally, _EXAMPLES):
        playbook = one.run.run.playbook
        yield f"{headline(one.event)}  {click.style(f'line {one.line:,}', dim=True)}"
        yield f"  {playbook.name}  {playbook.mode}"
        yield from step_lines(one.run.results)
    if len(tally.examples) > _EXAMPLES:
        yield click.style("For more examples: -o html, -o json", dim=True)


def _actions(comparison: Comparison) -> Iterator[str]:
    found = comparison.actions.differences()
    for one in found:
        red = one.effect == "disrupt"
        yield click.style(action_change_text(one), fg="red" if red else None, bold=red)
    if not found:
        yield NO_ACTION
    yield ""


def _compared(comparison: Comparison) -> Iterator[str]:
    rows = comparison.playbooks.rows()
    if rows:
        yield ""
        wide = max(len("Playbook"), *(len(short(name, _NAME)) for name, _ in rows))
        head = "".join(f"{words:>16}" for words in WORDS.values())
        yield click.style(f"{'Playbook':<{wide + 2}}{head}", bold=True)
        for name, row in rows:
            yield f"  {short(name, _NAME):<{wide}}" + "".join(
                click.style(f"{row[change]:>16,}", fg=_SIGNS[change][1])
                if row[change]
                else click.style(f"{'·':>16}", dim=True)
                for change in WORDS
            )
    for difference in pick_differences(comparison, _DIFFERENCES):
        yield from _difference(difference)
    if len(comparison.examples) > _DIFFERENCES:
        yield click.style("For more examples: -o html, -o json", dim=True)
    yield ""
    acting = (
        f"{comparison.acting['old']:,} events acted on before, {comparison.acting['new']:,} now."
    )
    yield f"{comparison_summary(comparison)} {acting}"


def _difference(difference: Difference) -> Iterator[str]:
    one = difference.either
    sign, colour = _SIGNS[difference.change]
    yield ""
    yield f"{headline(one.event)}  {click.style(f'line {one.line:,}', dim=True)}"
    words = click.style(printable(change_text(difference)), fg=colour)
    yield f"{click.style(sign, fg=colour)} {difference.playbook}  {words}"
    if difference.old is None or difference.new is None:
        yield from step_lines(one.run.results)
        return
    lines = list(changed_lines(difference))
    for line in lines[:_LINES]:
        yield "    " + click.style(
            short(printable(line), 180), fg="green" if line[0] == "+" else "red"
        )
    if len(lines) > _LINES:
        yield click.style(f"    {len(lines) - _LINES:,} more lines differ", dim=True)
