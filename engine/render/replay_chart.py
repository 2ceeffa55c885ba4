"""The charts of the HTML replay as SVG, and the style sheet of the page (light and dark)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.render.replay_view import bars

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.preview.replay import Tally

_BARS = 120
_WIDE, _HIGH = 960, 160
_WIDEST = 96
"""Maximum width of a bar, so that a recording of one hour is not one block."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5d6778; --line: #d9dee6; --page: #f7f8fa;
  --card: #fff; --runs: #2f6fde; --stopped: #e0a526; --planned: #2f6fde; --held: #7a5cd6;
  --refused: #c2417f; --skipped: #b48a12; --failed: #d33f3f; --good: #1d8a4b; --bad: #c93a3a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --soft: #98a3b5; --line: #2c3442;
  --page: #12161d; --card: #1a202a; --runs: #6ea0ff; --stopped: #e3b04b; --planned: #6ea0ff;
  --held: #a48cf0; --refused: #e57fb0; --skipped: #d8b34a; --failed: #f07070; --good: #58c98a;
  --bad: #f07f7f; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere } h2 { font-size: 17px; margin: 36px 0 8px }
p { color: var(--soft); margin: 4px 0; overflow-wrap: anywhere }
ul.changes { list-style: none; padding: 12px 16px; margin: 16px 0; font-size: 16px; font-weight: 600;
  background: var(--card); border: 1px solid var(--line); border-radius: 8px }
.changes .disrupt { color: var(--bad) }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 2px 16px; padding: 0; margin: 0 0 6px;
  color: var(--soft); font-size: 13px }
.legend li { display: flex; align-items: center; gap: 6px } .legend svg { width: 12px; height: 12px }
p.verdict { color: var(--ink); font-weight: 600 }
ul.tiles { list-style: none; display: flex; flex-wrap: wrap; gap: 10px; padding: 0; margin: 20px 0 0 }
.tiles li { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 16px; color: var(--soft); min-width: 104px }
.tiles b { display: block; font-size: 22px; color: var(--ink); font-variant-numeric: tabular-nums }
.tiles .held b { color: var(--held) } .tiles .refused b { color: var(--refused) }
.tiles .failed b { color: var(--failed) } .tiles .stopped b { color: var(--stopped) }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; overflow: hidden; font-size: 14px }
th, td { text-align: left; padding: 6px 12px; border-top: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere }
th { color: var(--soft); font-weight: 500; border-top: 0; overflow-wrap: normal }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; width: 1% }
.o { color: var(--soft); opacity: .5 } .s { white-space: nowrap }
svg { display: block } td svg { width: 140px; height: 10px; margin-top: 6px }
figure.time { display: grid; grid-template-columns: auto 1fr; gap: 6px 8px; margin: 0; padding: 14px;
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; color: var(--soft);
  font-size: 12px; line-height: 1; font-variant-numeric: tabular-nums }
.time svg { width: 100%; height: 160px }
.time line { stroke: var(--line); vector-effect: non-scaling-stroke }
.time ol { list-style: none; display: flex; justify-content: space-between; gap: 4px 12px; margin: 0;
  padding: 0 } .time .y { flex-direction: column; text-align: right } .time .x { grid-column: 2 }
.runs, .planned { fill: var(--runs) } .stopped { fill: var(--stopped) } .held { fill: var(--held) }
.refused { fill: var(--refused) } .skipped { fill: var(--skipped) } .failed { fill: var(--failed) }
.newly-act { fill: var(--good) } .no-longer-act { fill: var(--bad) } .act-differently { fill: var(--stopped) }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 0 24px }
.pair > div { min-width: 0 }
details { background: var(--card); border: 1px solid var(--line); border-radius: 8px; margin: 8px 0 }
summary { padding: 8px 14px; cursor: pointer; overflow-wrap: anywhere }
small, .more { color: var(--soft) }
pre { margin: 0; padding: 10px 14px; border-top: 1px solid var(--line); overflow-x: auto; font-size: 12.5px }
ins { color: var(--good); text-decoration: none } del { color: var(--bad); text-decoration: none }
footer { margin-top: 40px; color: var(--soft) }
@media (max-width: 640px) { .pair { grid-template-columns: 1fr }
  table, tbody { display: block } tr { display: flex; flex-wrap: wrap; padding: 6px 12px; gap: 0 14px }
  tr + tr { border-top: 1px solid var(--line) } tr.head { display: none }
  td { padding: 0; border: 0 } .name, .b { flex: 0 0 100% } .name { font-weight: 500 }
  .n { width: auto; text-align: left } .n.o { display: none }
  [data-c]::before { content: attr(data-c) " "; color: var(--soft) } td svg { width: 100% } }
"""
"""One string, because the Content-Security-Policy of the page contains its digest."""


def bar(parts: Sequence[tuple[str, int]], most: int) -> str:
    """Return a bar of several parts, each with a CSS class and a number. most: the number for the full width."""
    drawn, at = [], 0.0
    for name, number in parts:
        wide = 100 * number / most if most else 0.0
        if number:
            drawn.append(
                f'<rect class="{name}" x="{at:.2f}" width="{wide:.2f}" height="10"></rect>'
            )
        at += wide
    return f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{"".join(drawn)}</svg>'


def legend(parts: Sequence[str]) -> str:
    """Return the legend: what the colors of the bars mean."""
    items = "".join(
        f'<li><svg viewBox="0 0 1 1" aria-hidden="true"><rect class="{part.replace(" ", "-")}" width="1" '
        f'height="1"></rect></svg>{part}</li>'
        for part in parts
    )
    return f'<ul class="legend">{items}</ul>'


def time_chart(tally: Tally) -> Iterator[str]:
    """Yield the runs over time, with the stopped runs on top. Yield nothing if no event has a time."""
    width, found = bars(tally, _BARS)
    most = max((one.counts["runs"] + one.counts["stopped"] for one in found), default=0)
    if not most:
        return
    each = "hour" if width == 1 else f"{width} hours"
    step = _WIDE / len(found)
    wide = min(step * 0.8, _WIDEST)
    yield f"<h2>Runs per {each}</h2>"
    yield legend([part for part in ("runs", "stopped") if any(one.counts[part] for one in found)])
    # The labels are not part of the drawing, because it is stretched to the width of the screen.
    labels = [f"{most:,}", "" if most % 2 else f"{most // 2:,}", "0"]
    yield f'<figure class="time">{_labels("y", labels)}'
    yield f'<svg viewBox="0 0 {_WIDE} {_HIGH}" preserveAspectRatio="none" role="img">'
    yield f"<title>Runs per {each}, at most {most:,}</title>"
    for share in (0, 0.5, 1):
        y = _HIGH * (1 - share)
        yield f'<line x1="0" x2="{_WIDE}" y1="{y:.0f}" y2="{y:.0f}"></line>'
    for number, one in enumerate(found):
        runs, stopped = one.counts["runs"], one.counts["stopped"]
        low = _HIGH * runs / most
        high = _HIGH * stopped / most
        title = f"{one.start}: {runs:,} runs, {stopped:,} stopped, {one.counts['events']:,} events"
        place = f'x="{number * step + (step - wide) / 2:.2f}" width="{wide:.2f}"'
        yield f"<g><title>{title}</title>"
        yield f'<rect class="runs" {place} y="{_HIGH - low:.2f}" height="{low:.2f}"></rect>'
        if stopped:
            yield f'<rect class="stopped" {place} y="{_HIGH - low - high:.2f}" height="{high:.2f}"></rect>'
        yield "</g>"
    ends = [found[0].start, found[-1].start] if len(found) > 1 else ["", found[0].start, ""]
    yield f"</svg>{_labels('x', ends)}</figure>"


def _labels(axis: str, texts: Sequence[str]) -> str:
    return f'<ol class="{axis}">{"".join(f"<li>{text}</li>" for text in texts)}</ol>'
