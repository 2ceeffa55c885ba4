"""The story of a run as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.render.plan_text import headline, match_reason_lines, step_lines
from engine.render.text import print_line
from engine.telemetry.events import AttemptEnded, EngineEvent

if TYPE_CHECKING:
    from engine.model.run import Run


def tell_story(engine_event: EngineEvent) -> None:
    """Print each run that ends to stderr: the event, why the playbook matched, and the steps."""
    if not isinstance(engine_event, AttemptEnded) or not engine_event.over:
        return
    run: Run = engine_event.claim.run
    dry = any(result.state == "planned" for result in engine_event.results)
    lines = [
        "",
        headline(run.event),
        f"  {run.playbook.name}  {'dry run' if dry else engine_event.became}",
    ]
    lines += [f"    {line}" for line in match_reason_lines(run.event, run.playbook)]
    lines += step_lines(engine_event.results, bodies=True)
    for line in lines:
        print_line(line, err=True)
