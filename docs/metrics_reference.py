"""Generate docs/metrics.md: each metric with its labels, a typical query, and the panels and alerts that use it.

docs/generate.py writes the page. A test evaluates each query in a real Prometheus.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from engine.telemetry.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
DASHBOARD = ROOT / "examples/seed-loop/dashboard/tiercel.json"
RULES = ROOT / "examples/seed-loop/prometheus/tiercel.rules.yaml"

HEAD = """# Metrics

`python docs/generate.py` generates this page from `engine/telemetry/metrics.py`, from the
[dashboard](dashboard.md) and from the alert rules.

`/metrics` is on the admin port. [operate.md](operate.md#metrics) shows how Prometheus gets access.
Each histogram has the series `…_bucket`, `…_sum` and `…_count`. All times are in seconds. No label
contains a pod, a command line or an output, so the number of series does not grow with the number of
events. The logs have the pods: see [dashboard.md](dashboard.md#logs).

A series of a counter appears with its first event and the value 1. `rate` and `increase` do not count
this first event. The dashboard uses `x - x offset 5m >= 0 or x`, which counts it.

`tiercel_playbook_info` adds the labels of a playbook to other series:

```promql
tiercel_runs_total * on (playbook) group_left (label_team) tiercel_playbook_info
```

## Labels

| label | meaning |
|---|---|
"""

LABELS = {
    "account": "The ServiceAccount of [runAs](language.md#runas). Empty: the engine's own.",
    "action": "The name of an [action](actions.md), such as `pod.isolate`.",
    "actions": "The actions that the budget counts, joined with commas. Empty: all actions of its "
    "effect.",
    "decision": "`approve`, `deny`, `retry`, `undo`, `pause` or `resume`.",
    "effect": "The effect of the steps that the budget counts: `notify`, `observe`, `mark` or `disrupt`.",
    "kind": "`redis`, `nats`, `follow` (a file) or `slack` (presses of buttons).",
    "limit": "Targets that the budget allows in each window.",
    "mode": "`enforce`, `notify`, `dryRun` or `disabled`.",
    "outcome": "`done`, `skipped`, `refused` or `failed`; `planned` in a dry run (see "
    "[glossary.md](glossary.md)).",
    "per": "The length of the budget's window, such as `10m`.",
    "playbook": "`metadata.name` of the playbook.",
    "playbooks": "The playbooks that the budget counts, joined with commas. Empty: all playbooks.",
    "reason": "Of a suppressed run: a word of `result`. Of a connection: `many` (too many connections), "
    "`evicted` (the oldest connection without a complete request was closed for a new one) or `late` "
    "(the request did not arrive in time).",
    "result": "Of an event: `run` (a playbook matched), `unmatched`, `duplicate`, `throttle`, "
    "`silence`, `mode` (all its playbooks are `disabled`), `paused`, `self` (Tiercel "
    "itself caused it), `shed` (the journal is nearly full), `error` (not an event) or "
    "`refused` (it could not be written). Of a reload: `accepted` or `refused`.",
    "scope": "What has its own window: `cluster`, `namespace`, `owner` or `playbook`.",
    "source": "How the event arrived: `http`, `redis`, `nats` or `follow` (a file).",
    "state": "Of an attempt: `done`, `undone` (it undid the change), `waiting` (it will be repeated), "
    "`held`, `skipped`, `refused`, `failed` or `planned`. Of a run in the queue: `waiting`, "
    "`running` or `held`.",
    "status": "The HTTP status: `202` (a run was accepted), `200` (no run), `4xx` or `5xx`.",
}

QUERIES = {
    "bodies_total": 'sum by (status) (rate(tiercel_bodies_total{status=~"4..|5.."}[5m]))',
    "events_total": "sum by (result) (increase(tiercel_events_total[1h]))",
    "suppressed_runs_total": "sum by (playbook, reason) (increase(tiercel_suppressed_runs_total[1h]))",
    "accept_seconds": "histogram_quantile(0.99, sum by (le) (rate(tiercel_accept_seconds_bucket[5m])))",
    "connections": "sum(tiercel_connections)",
    "connections_refused_total": "sum by (reason) (increase(tiercel_connections_refused_total[1h]))",
    "source_connected": "min by (kind) (tiercel_source_connected)",
    "playbooks": "sum by (mode) (tiercel_playbooks)",
    "playbook_info": 'count by (playbook) (tiercel_playbook_info{mode!="enforce"})',
    "playbooks_current": "min(tiercel_playbooks_current)",
    "playbooks_loaded_timestamp_seconds": "time() - tiercel_playbooks_loaded_timestamp_seconds",
    "reloads_total": "sum by (result) (increase(tiercel_reloads_total[1d]))",
    "dry_run": "max by (namespace) (tiercel_dry_run)",
    "paused": "sum(tiercel_paused)",
    "decisions_total": "sum by (decision) (increase(tiercel_decisions_total[1d]))",
    "queue_runs": "sum by (state) (tiercel_queue_runs)",
    "queue_oldest_due_seconds": "max(tiercel_queue_oldest_due_seconds)",
    "attempts_total": 'sum by (action, state) (rate(tiercel_attempts_total{state!="done"}[5m]))',
    "attempt_seconds": (
        "histogram_quantile(0.95, sum by (le, action) (rate(tiercel_attempt_seconds_bucket[5m])))"
    ),
    "runs_total": "topk(5, sum by (playbook) (increase(tiercel_runs_total[1d])))",
    "wait_seconds": "histogram_quantile(0.99, sum by (le) (rate(tiercel_wait_seconds_bucket[5m])))",
    "done_seconds": (
        "histogram_quantile(0.95, sum by (le, outcome) (rate(tiercel_done_seconds_bucket[5m])))"
    ),
    "budget_left": "min by (effect, scope, limit, per) (tiercel_budget_left)",
    "cluster_answers": "min_over_time(tiercel_cluster_answers[1h])",
    "rights_known": "min by (account) (tiercel_rights_known)",
    "rights_missing": "max by (account) (tiercel_rights_missing)",
    "rights_excess": "max by (account) (tiercel_rights_excess)",
    "journal_writable": "min_over_time(tiercel_journal_writable[1h])",
    "journal_fill_ratio": "predict_linear(tiercel_journal_fill_ratio[6h], 86400)",
    "spool_runs": "sum(tiercel_spool_runs)",
    "spool_fill_ratio": "max(tiercel_spool_fill_ratio)",
}
"""A typical query for each family, by its name without prefix."""


def page() -> str:
    """Return the text of docs/metrics.md."""
    return HEAD + "".join(f"{line}\n" for line in (*_labels(), *_metrics()))


def _labels() -> Iterator[str]:
    used = {label for family in METRICS.values() for label in family.labels}
    for label in sorted(used):
        yield f"| `{label}` | {LABELS[label]} |"


def _metrics() -> Iterator[str]:
    panels, alerts = _panels(), _alerts()
    yield from ("", "## All metrics", "", "| metric | meaning |", "|---|---|")
    for name, family in METRICS.items():
        yield f"| [`tiercel_{name}`](#tiercel_{name}) | {family.help} |"
    for name, family in METRICS.items():
        labels = ", ".join(f"`{label}`" for label in family.labels) or "none"
        yield from ("", f"## tiercel_{name}", "", family.help, "")
        yield f"- Type: {family.kind}. Labels: {labels}."
        for kind, users in (("Panels", panels), ("Alerts", alerts)):
            found = [text for text, expression in users if name in _names(expression)]
            if found:
                yield f"- {kind}: {', '.join(dict.fromkeys(found))}."
        yield from ("", "```promql", QUERIES[name], "```")


def _names(expression: str) -> set[str]:
    """Return the families that an expression uses, without prefix."""
    found = re.findall(r"\btiercel_([a-z_]+)", expression)
    return {re.sub(r"_seconds_(bucket|sum|count)$", "_seconds", name) for name in found}


def _panels() -> list[tuple[str, str]]:
    """Return the title and the expression of each query of the dashboard."""
    board: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = [
        (f'"{panel["title"]}"', target["expr"])
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]
    found += [
        (f"the variable `{variable['name']}`", json.dumps(variable["query"]))
        for variable in board["templating"]["list"]
        if isinstance(variable["query"], dict)
    ]
    found += [
        (f'the annotation "{one["name"]}"', one["target"]["expr"])
        for one in board["annotations"]["list"]
    ]
    return found


def _alerts() -> list[tuple[str, str]]:
    """Return a link and the expression of each alert rule."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [
        (f"[{rule['alert']}](runbooks.md#{rule['alert'].lower()})", rule["expr"])
        for group in groups
        for rule in group["rules"]
    ]
