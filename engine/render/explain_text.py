"""Explanations as text: one table for each playbook. The other playbooks are in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.model.safe_text import printable
from engine.render.plan_text import headline
from engine.render.text import count, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.model.event import Event
    from engine.planning.explain import Explanation, Row

_MAX_WIDTHS = (38, 52, 48)
_SIGNS = {True: ("yes", "green"), False: ("no", "red"), None: ("unknown", "yellow")}


def explanation_lines(
    event: Event,
    explanations: Sequence[Explanation],
    suppressed: Mapping[str, str | None],
    *,
    whole: bool,
) -> Iterator[str]:
    """Yield the text of one event.

    suppressed: the playbooks that match -> why they start no run (None: they start one). whole: also show the
    tables of playbooks that select other rules.
    """
    yield headline(event)
    others = []
    for explanation in explanations:
        near = any(row.near for row in explanation.rows if row.what == "rules")
        if whole or explanation.names_rule or near:
            yield from _table(explanation, suppressed)
        else:
            others.append(explanation.name)
    if others:
        names = short(", ".join(others), 100)
        verb = "selects" if len(others) == 1 else "select"
        yield f"  {count(len(others), 'playbook')} {verb} other rules: {names}"


def _table(explanation: Explanation, suppressed: Mapping[str, str | None]) -> Iterator[str]:
    failed = explanation.failed
    yield f"  {explanation.name}  {_verdict(explanation, suppressed)}"
    cells = [_cells(row) for row in explanation.rows]
    widths = [max(len(cell[n]) for cell in cells) for n in range(3)] if cells else [0, 0, 0]
    for row, (what, wanted, actual) in zip(explanation.rows, cells, strict=True):
        word, colour = _SIGNS[row.truth]
        sign = click.style(f"{word:<7}", fg=colour)
        line = f"    {sign}  {what:<{widths[0]}}  {wanted:<{widths[1]}}  {actual:<{widths[2]}}"
        yield line.rstrip() + ("   <- failed first" if row is failed else "")
        if row.near and row.truth is not True:
            yield click.style(f"             {short(row.near)}", dim=True)


def _cells(row: Row) -> tuple[str, str, str]:
    what = "  " * row.depth + printable(row.what)
    actual = f"is {row.actual}" if row.actual else ""
    what, wanted, actual = (
        short(text, width)
        for text, width in zip((what, row.wanted, actual), _MAX_WIDTHS, strict=True)
    )
    return what, wanted, actual


def _verdict(explanation: Explanation, suppressed: Mapping[str, str | None]) -> str:
    if explanation.name not in suppressed:
        failed = explanation.failed
        what = "" if failed is None else f": {failed.what or failed.wanted}"
        return click.style(f"does not match{short(what, 60)}", fg="red")
    why = suppressed[explanation.name]
    if why is None:
        return click.style("matches and starts a run", fg="green")
    return click.style(f"matches, but starts no run: {printable(why)}", fg="yellow")
