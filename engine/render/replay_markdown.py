"""A replay as Markdown for a pull request, with at most 60,000 characters (the limit of GitHub is 65,536).

Values from events are untrusted. They are only in code, where all characters except letters and digits are
character references. So they cannot create table cells, tags, links or mentions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from engine.model.safe_text import printable
from engine.preview.replay import STATES
from engine.render.plan_text import headline, step_lines
from engine.render.replay_view import (
    NO_ACTION,
    WORDS,
    action_change_text,
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
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from engine.preview.comparison import Comparison, Difference
    from engine.preview.replay import Example, Tally
    from engine.render.replay_view import ReplayReport

MARK = "<!-- tiercel replay -->"
"""The first line. A bot finds its own comment by it."""
_MAX_LENGTH = 60_000
_ROWS = 12
_EXAMPLES = 5
_LINES = 24
_WIDTH = 160
_NAME = 80
_TICKS = re.compile("`+")


def replay_markdown(report: ReplayReport) -> str:
    """Return the text. Examples that do not fit into the limit are left out."""
    comparison = report.comparison
    if comparison is None:
        lines = [*_head(report, "Tiercel replay"), *_tables(report.tally), "", totals(report)]
        blocks = [_example(one) for one in pick_examples(report.tally, _EXAMPLES)]
    else:
        lines = [*_head(report, "What these playbooks change"), *_compared(comparison)]
        blocks = [_difference(one) for one in pick_differences(comparison, _EXAMPLES)]
    text = "\n".join(lines)
    for one in blocks:
        if len(text) + len(one) < _MAX_LENGTH:
            text += "\n\n" + one
    return text


def code(text: str, width: int = _NAME) -> str:
    """Return text as an HTML code element, with all special characters escaped."""
    inside = re.sub(r"[^A-Za-z0-9 /,-]", lambda found: f"&#{ord(found[0])};", short(text, width))
    return f"<code>{inside}</code>"


def _head(report: ReplayReport, title: str) -> Iterator[str]:
    events = count(report.recording.events, "event")
    yield MARK
    yield f"### {title}"
    yield ""
    if report.comparison is not None:
        yield from _actions(report.comparison)
    times = time_span(report.tally) or "without times"
    yield f"{code(report.file)}: {events}, {times}; {input_summary(report)}."


def _tables(tally: Tally) -> Iterator[str]:
    modes = {name: f"{name} ({mode})" for name, mode in tally.asked.items() if mode != "enforce"}
    rows = [(modes.get(name, name), row) for name, row in tally.playbooks.rows()]
    yield from _numbers("playbook", ("runs", "stopped", *STATES), rows)
    unmatched = unmatched_playbooks(tally)
    if unmatched:
        yield ""
        yield f"{count(len(unmatched), 'playbook')} matched no event."
    stopped = stopped_by(tally)
    if stopped:
        cells = [[f"{runs:,}", code(why), code(name)] for name, why, runs in stopped[:_ROWS]]
        yield from _table(("stopped", "by", "playbook"), "rll", cells, len(stopped))
    reasons = tally.reasons.rows()
    if reasons:
        cells = [
            [
                f"{row['steps']:,}",
                one.state,
                code(f"{one.playbook}/{one.step}"),
                code(one.why, _WIDTH),
            ]
            for one, row in reasons[:_ROWS]
        ]
        yield from _table(("steps", "state", "step", "why"), "rlll", cells, len(reasons))
    yield ""
    yield "<details><summary>By action, namespace and target</summary>"
    yield from _numbers("action", STATES, tally.actions.rows())
    yield from _numbers("namespace", ("runs", "stopped"), tally.namespaces.rows())
    yield from _numbers("target", ("runs", "stopped"), tally.targets.rows())
    yield ""
    yield "</details>"


def _actions(comparison: Comparison) -> Iterator[str]:
    """Yield the difference by action, as a diff: Markdown has no other way to show a line in red."""
    found = comparison.actions.differences()
    if not found:
        yield NO_ACTION
    else:
        yield "```diff"
        yield from (
            f"{'-' if one.effect == 'disrupt' else ' '} {action_change_text(one)}" for one in found
        )
        yield "```"
    yield ""


def _compared(comparison: Comparison) -> Iterator[str]:
    yield ""
    yield f"**{_plain(comparison_summary(comparison))}**"
    acting = comparison.acting
    yield f"{acting['old']:,} events acted on before, {acting['new']:,} now."
    rows = [
        (name, {WORDS[change]: row[change] for change in WORDS})
        for name, row in comparison.playbooks.rows()
    ]
    yield from _numbers("playbook", tuple(WORDS.values()), rows)


def _plain(text: str) -> str:
    """Escape the name of a revision, which can contain special characters of Markdown."""
    return re.sub(r"[^A-Za-z0-9 .,/():-]", lambda found: f"&#{ord(found[0])};", printable(text))


def _numbers(
    name: str, columns: Sequence[str], rows: Sequence[tuple[str, Mapping[str, int]]]
) -> Iterator[str]:
    if not rows:
        return
    shown = [column for column in columns if any(row[column] for _, row in rows)]
    cells = [
        [code(label), *(f"{row[column]:,}" if row[column] else "" for column in shown)]
        for label, row in rows[:_ROWS]
    ]
    yield from _table((name, *shown), "l" + "r" * len(shown), cells, len(rows))


def _table(
    head: Sequence[str], sides: str, cells: Iterable[Sequence[str]], rows: int
) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join('---:' if side == 'r' else '---' for side in sides)}|"
    yield from (f"| {' | '.join(row)} |" for row in cells)
    if rows > _ROWS:
        yield ""
        yield f"{rows - _ROWS:,} more."


def _example(one: Example) -> str:
    playbook = one.run.run.playbook
    lines = [headline(one.event), *step_lines(one.run.results)]
    return _details(f"{playbook.name}: {one.event.rule}", lines, "text")


def _difference(difference: Difference) -> str:
    one = difference.either
    lines = [f"# {headline(one.event)}", *changed_lines(difference)]
    title = f"{difference.playbook} {change_text(difference)}: {one.event.rule}"
    return _details(title, lines, "diff")


def _details(title: str, lines: Sequence[str], language: str) -> str:
    """Return a collapsed block. Its fence is longer than any run of backticks in the lines."""
    shown = [short(click.unstyle(line), _WIDTH) for line in lines[:_LINES]]
    if len(lines) > _LINES:
        shown.append(f"… {len(lines) - _LINES:,} more lines")
    longest = max((len(found) for line in shown for found in _TICKS.findall(line)), default=0)
    fence = "`" * max(3, longest + 1)
    head = f"<details><summary>{code(title, 120)}</summary>"
    return "\n".join([head, "", f"{fence}{language}", *shown, fence, "", "</details>"])
