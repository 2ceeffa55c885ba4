"""A replay as one JSON document.

| key | value |
|---|---|
| `against` | null, or `{actions, revision, commit, events, acting, playbooks, examples}` |
| `file` | as named on the command line |
| `events` `matched` `unmatched` `untimed` | events; those that match a playbook, or none; those without a time |
| `otherLines` | lines that do not begin with `{` |
| `unreadable` | `{count, lines: [{line, reason}]}`, the first 20 |
| `first` `last` | the earliest and latest time of an event, RFC 3339, or null |
| `runs` `stopped` `writes` `messages` | runs; stopped runs; planned API calls and HTTP requests |
| `steps` | state -> number of steps |
| `playbooks` | `[{name, mode, runs, stopped, planned, held, refused, skipped, failed}]`, of all playbooks |
| `actions` | `[{name, planned, held, refused, skipped, failed}]` |
| `namespaces` `targets` | `[{name, runs, stopped}]`, the most frequent first; `(none)` if an event names none |
| `hours` | `[{hour, events, runs, stopped}]`, sorted by time |
| `stoppedBy` | `[{playbook, why, runs}]`; `why` is the value of `suppressed` in `plan` |
| `reasons` | `[{state, playbook, step, why, steps}]` of steps that are held, refused, skipped or failed |
| `examples` | `[{line, event, run}]`, as in `plan -o json` |

Keys of `against`:

- `actions`: the actions whose use differs, sorted by effect, destructive ones first: `[{name, effect, old, new,
  otherwise, begins, ceases, complete}]`. `old` and `new` count the steps that act. `otherwise` counts the steps
  that act differently. `begins` and `ceases` are `{targets, namespaces}` that only one side acts on. They are
  minimums if `complete` is false.
- `events`: `{newly, noLonger, otherwise}`.
- `acting`: the number of events that are acted on, `{old, new}`.
- `playbooks`: `[{name, newly, noLonger, otherwise}]`.
- `examples`: `[{change, playbook, line, event, stopped, old, new}]`. `old` and `new` are runs or null. `stopped`
  is what stopped the missing one.

Lists of names from events contain the 1,000 most frequent names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.model.event import PRIORITIES, format_time
from engine.preview.comparison import CHANGES
from engine.preview.replay import STATES
from engine.render.plan_json import run_json
from engine.render.replay_view import stopped_by, unmatched_playbooks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.preview.comparison import ActionDifference, Comparison, TargetCount
    from engine.preview.replay import CountTable, Example, Tally
    from engine.render.replay_view import ReplayReport

_ROWS = 1_000
_HOUR_NS = 3_600 * 10**9


def replay_json(report: ReplayReport) -> dict[str, Any]:
    """Return the document that the docstring of the module describes."""
    recording, tally, comparison = report.recording, report.tally, report.comparison
    counts = tally.counts
    return {
        "against": None if comparison is None else _against(comparison),
        "file": report.file,
        "events": recording.events,
        **{key: counts[key] for key in ("matched", "unmatched", "untimed")},
        "otherLines": recording.other_lines,
        "unreadable": {
            "count": recording.unreadable,
            "lines": [{"line": line, "reason": reason} for line, reason in recording.errors],
        },
        "first": None if tally.first_ns is None else format_time(tally.first_ns),
        "last": None if tally.last_ns is None else format_time(tally.last_ns),
        **{key: counts[key] for key in ("runs", "stopped", "writes", "messages")},
        "steps": {state: counts[state] for state in STATES},
        **_tables(tally),
        "examples": [{**_example_json(one), "run": run_json(one.run)} for one in tally.examples],
    }


def _tables(tally: Tally) -> dict[str, Any]:
    none = dict.fromkeys(tally.playbooks.columns, 0)
    playbooks = [*tally.playbooks.rows(), *((name, none) for name in unmatched_playbooks(tally))]
    return {
        "playbooks": [{"name": n, "mode": tally.asked[n], **row} for n, row in playbooks],
        "actions": _named(tally.actions),
        "namespaces": _named(tally.namespaces),
        "hours": [
            {"hour": format_time(hour * _HOUR_NS), **row} for hour, row in sorted(tally.hours.rows())
        ],
        "stoppedBy": [
            {"playbook": playbook, "why": why, "runs": runs}
            for playbook, why, runs in stopped_by(tally)[:_ROWS]
        ],
        "reasons": [
            {
                "state": reason.state, "playbook": reason.playbook, "step": reason.step,
                "why": reason.why, "steps": row["steps"],
            }
            for reason, row in tally.reasons.rows()[:_ROWS]
        ],
        "targets": _named(tally.targets),
    }  # fmt: skip


def _named(table: CountTable[str]) -> list[Mapping[str, Any]]:
    return [{"name": name, **row} for name, row in table.rows()[:_ROWS]]


def _example_json(one: Example) -> dict[str, Any]:
    event = one.event
    priority = None if event.priority is None else PRIORITIES[event.priority]
    return {
        "line": one.line,
        "event": {
            "id": one.id, "rule": event.rule, "priority": priority,
            "time": format_time(event.time_ns),
        },
    }  # fmt: skip


def _against(comparison: Comparison) -> dict[str, Any]:
    examples = [
        {
            "change": one.change,
            "playbook": one.playbook,
            **_example_json(one.either),
            "stopped": one.stopped,
            "old": one.old and run_json(one.old.run),
            "new": one.new and run_json(one.new.run),
        }
        for one in comparison.examples
    ]
    return {
        "actions": [_action(one) for one in comparison.actions.differences()],
        "revision": comparison.name,
        "commit": comparison.commit,
        "events": {change: comparison.events[change] for change in CHANGES},
        "acting": {side: comparison.acting[side] for side in ("old", "new")},
        "playbooks": _named(comparison.playbooks),
        "examples": examples,
    }


def _action(one: ActionDifference) -> dict[str, Any]:
    return {
        "name": one.action,
        "effect": one.effect,
        "old": one.old,
        "new": one.new,
        "otherwise": one.otherwise,
        "begins": _target_count(one.begins),
        "ceases": _target_count(one.ceases),
        "complete": one.complete,
    }


def _target_count(count: TargetCount) -> dict[str, int]:
    return {"targets": count.targets, "namespaces": count.namespaces}
