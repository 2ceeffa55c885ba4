"""A replay as one HTML page without scripts, external fonts or images.

Its Content-Security-Policy allows only its own style sheet, as a second protection if text is not escaped. The
charts are SVG in the page.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import TYPE_CHECKING

import click

from engine.model.safe_text import printable
from engine.preview.replay import STATES
from engine.render.plan_text import headline, step_lines
from engine.render.replay_chart import STYLE, bar, legend, time_chart
from engine.render.replay_view import (
    NO_ACTION,
    WORDS,
    action_change_text,
    change_text,
    changed_lines,
    comparison_summary,
    input_summary,
    stopped_by,
    time_span,
    totals,
    unmatched_playbooks,
)
from engine.render.text import count, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.preview.comparison import Comparison, Difference
    from engine.preview.replay import Example, Tally
    from engine.render.replay_view import ReplayReport

_RUNS = ("runs", "stopped")
_ROWS = 20
_EXAMPLES = 30
_LINES = 120
_WIDTH = 2_000
_NAME = 120


def replay_html(report: ReplayReport) -> str:
    """Return the page."""
    return "\n".join(_page(report))


def _page(report: ReplayReport) -> Iterator[str]:
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = f"Tiercel replay of {_text(report.file)}"
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>"
    yield f"<h1>{title}</h1>"
    if report.comparison is not None:
        yield from _actions(report.comparison)
    yield f"<p>{time_span(report.tally)}. {input_summary(report)}.</p>"
    yield from _tiles(report)
    if report.comparison is not None:
        yield from _compared(report.comparison)
    yield from _tables(report.tally)
    yield f"<footer>{_text(totals(report))}</footer>\n</main>\n</body>\n</html>"


def _tiles(report: ReplayReport) -> Iterator[str]:
    counts = report.tally.counts
    numbers = {"events": report.recording.events} | {
        key: counts[key] for key in ("matched", "runs", "stopped", *STATES)
    }
    yield '<ul class="tiles">'
    for key, number in numbers.items():
        if number or key in ("events", "matched", "runs"):
            yield f'<li class="{key}"><b>{number:,}</b>{key}</li>'
    yield "</ul>"


def _tables(tally: Tally) -> Iterator[str]:
    yield from time_chart(tally)
    modes = {name: f"{name} ({mode})" for name, mode in tally.asked.items() if mode != "enforce"}
    playbooks = [(modes.get(name, name), row) for name, row in tally.playbooks.rows()]
    yield from _numbers("Playbooks", (*_RUNS, *STATES), playbooks)
    unmatched = unmatched_playbooks(tally)
    if unmatched:
        names = short(", ".join(unmatched), _WIDTH)
        yield f"<p>{count(len(unmatched), 'playbook')} matched no event: {_text(names)}</p>"
    yield from _reasons(tally)
    yield '<div class="pair">'
    for title, table, columns in (
        ("Actions", tally.actions, STATES),
        ("Namespaces", tally.namespaces, _RUNS),
    ):
        yield "<div>"
        yield from _numbers(title, columns, table.rows())
        yield "</div>"
    yield "</div>"
    yield from _numbers("Busiest targets", _RUNS, tally.targets.rows())
    if tally.examples:
        yield "<h2>Examples</h2>"
    for one in tally.examples[:_EXAMPLES]:
        yield from _example(one)


def _reasons(tally: Tally) -> Iterator[str]:
    stopped = stopped_by(tally)
    if stopped:
        cells = [(f"{runs:,}", why, name) for name, why, runs in stopped]
        yield from _table("What stopped runs", ("runs", "by", "playbook"), cells)
    reasons = tally.reasons.rows()
    if reasons:
        steps = [
            (f"{row['steps']:,}", one.state, f"{one.playbook}/{one.step}", one.why)
            for one, row in reasons
        ]
        head = ("steps", "state", "step", "why")
        yield from _table("Steps held, refused, skipped or failed", head, steps)


def _actions(comparison: Comparison) -> Iterator[str]:
    found = comparison.actions.differences()
    if not found:
        yield f"<p>{NO_ACTION}</p>"
        return
    yield '<ul class="changes">'
    yield from (f'<li class="{one.effect}">{_text(action_change_text(one))}</li>' for one in found)
    yield "</ul>"


def _compared(comparison: Comparison) -> Iterator[str]:
    acting = comparison.acting
    yield "<h2>What changes</h2>"
    yield f'<p class="verdict">{_text(comparison_summary(comparison))}</p>'
    yield f"<p>{acting['old']:,} events acted on before, {acting['new']:,} now.</p>"
    rows = [
        (name, {WORDS[change]: row[change] for change in WORDS})
        for name, row in comparison.playbooks.rows()
    ]
    yield from _numbers("Changes by playbook", tuple(WORDS.values()), rows)
    for one in comparison.examples:
        yield from _difference(one)


def _numbers(
    title: str, columns: Sequence[str], rows: Sequence[tuple[str, Mapping[str, int]]]
) -> Iterator[str]:
    """Yield a table of numbers with a bar in each row, and a legend of the bars."""
    if not rows:
        return
    shown = [column for column in columns if any(row[column] for _, row in rows)]
    parts = _RUNS if "runs" in columns else columns  # runs and steps are different units
    most = max(sum(row[part] for part in parts) for _, row in rows)
    head = "".join(f'<th class="n">{column}</th>' for column in shown)
    yield f"<h2>{title}</h2>"
    yield legend([part for part in parts if part in shown])
    yield f'<table>\n<tr class="head"><th>name</th>{head}<th></th></tr>'
    for name, row in rows[:_ROWS]:
        numbers = "".join(
            f'<td class="n{"" if row[column] else " o"}" data-c="{column}">{row[column]:,}</td>'
            for column in shown
        )
        drawn = bar([(part.replace(" ", "-"), row[part]) for part in parts], most)
        label = _text(short(name, _NAME))
        yield f'<tr><td class="name">{label}</td>{numbers}<td class="b">{drawn}</td></tr>'
    yield "</table>"
    yield from _more(len(rows))


def _table(title: str, head: Sequence[str], cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table whose first column is a number."""
    first, *others = head
    names = "".join(f"<th>{column}</th>" for column in others)
    yield f'<h2>{title}</h2>\n<table>\n<tr class="head"><th class="n">{first}</th>{names}</tr>'
    for number, *texts in cells[:_ROWS]:
        rest = "".join(
            f'<td class="{"s" if column == "state" else "name"}">{_text(short(text, 300))}</td>'
            for column, text in zip(others, texts, strict=True)
        )
        yield f'<tr><td class="n" data-c="{first}">{number}</td>{rest}</tr>'
    yield "</table>"
    yield from _more(len(cells))


def _more(rows: int) -> Iterator[str]:
    if rows > _ROWS:
        yield f'<p class="more">{rows - _ROWS:,} more</p>'


def _example(one: Example) -> Iterator[str]:
    playbook = one.run.run.playbook
    lines = [headline(one.event), *step_lines(one.run.results, bodies=True)]
    yield from _details(f"{playbook.name}, line {one.line:,}", one.event.rule, lines)


def _difference(difference: Difference) -> Iterator[str]:
    one = difference.either
    title = f"{difference.playbook} {change_text(difference)}, line {one.line:,}"
    lines = [headline(one.event), *changed_lines(difference)]
    yield from _details(title, one.event.rule, lines)


def _details(title: str, rule: str, lines: Sequence[str]) -> Iterator[str]:
    shown = [_text(short(click.unstyle(line), _WIDTH)) for line in lines[:_LINES]]
    marked = [
        f"<ins>{line}</ins>"
        if line[:2] == "+ "
        else f"<del>{line}</del>"
        if line[:2] == "- "
        else line
        for line in shown
    ]
    yield f"<details><summary>{_text(title)} <small>{_text(short(rule, _NAME))}</small></summary>"
    yield "<pre>" + "\n".join(marked) + "</pre></details>"


def _text(text: str) -> str:
    """Escape text for HTML, also in attributes."""
    return escape(printable(text))
