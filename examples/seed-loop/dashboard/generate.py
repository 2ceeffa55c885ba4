"""Generate the Grafana dashboard tiercel.json with Grafana's SDK. A test checks that the file is current.

python examples/seed-loop/dashboard/generate.py

docs/dashboard.md describes the dashboard. Each panel has a title, a description for a person on call, a unit,
thresholds where a value is bad, and a link to the page that says what to do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    logs,
    loki,
    prometheus,
    stat,
    text,
    timeseries,
)
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.loki import LokiQueryType
from grafana_foundation_sdk.models.text import TextMode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

FILE = Path(__file__).with_name("tiercel.json")
DOCS = "https://github.com/tiercel/tiercel/blob/main/docs"
PROMETHEUS = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
LOKI = model.DataSourceRef(type_val="loki", uid="${loki}")

# "All" of the variable installation is ".*", which also selects series without the label namespace.
ENGINE = 'namespace=~"$installation"'
PLAYBOOK = f'{ENGINE}, playbook=~"$playbook"'
# "All" of the variables namespace and pod is ".+": Loki refuses a selector that can match the empty value.
POD = 'k8s_ns_name=~"$namespace", k8s_pod_name=~"$pod"'

GREEN, ORANGE, RED, BLUE = "green", "orange", "red", "blue"
OUTCOME_COLORS = {
    "done": GREEN, "planned": BLUE, "skipped": "text", "held": "purple", "waiting": "yellow", "refused": ORANGE,
    "failed": RED,
}  # fmt: skip
RESULT_COLORS = {
    "run": GREEN, "unmatched": "text", "duplicate": "light-blue", "paused": "yellow", "shed": ORANGE,
    "error": "light-red", "refused": RED,
}  # fmt: skip

Builder = stat.Panel | timeseries.Panel | bargauge.Panel | logs.Panel | text.Panel


def dashboard() -> build.Dashboard:
    """Return the dashboard."""
    board = (
        build.Dashboard("Tiercel")
        .uid("tiercel")
        .description("What Tiercel received, what it did, and whether it works.")
        .tags(["tiercel", "falco", "security"])
        .timezone("browser")
        .time("now-3h", "now")
        .refresh("30s")
        .readonly()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .variables(list(_variables()))
        .annotation(_reloads())
    )
    for title, path in (
        ("Runbooks", "runbooks.md"),
        ("Metrics", "metrics.md"),
        ("Operate", "operate.md"),
    ):
        board.link(_link(title, path))
    rows = {
        "State": _state(),
        "Events": _events(),
        "Actions and outcomes": _actions(),
        "Latency": _latency(),
        "Queue, holds and budgets": _queue(),
        "Playbooks and reloads": _playbooks(),
        "Capacity": _capacity(),
        "Logs: Falco and Tiercel side by side": _logs(),
    }
    number = 0
    for title, panels in rows.items():
        number += 1
        board.with_row(build.Row(title).id(number))
        for panel in panels:
            number += 1
            board.with_panel(panel.id(number))
    return board


def _variables() -> Iterator[Any]:
    yield build.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    yield build.DatasourceVariable("loki").label("Loki").type("loki")
    yield _query_variable(
        "installation",
        "Tiercel in namespace",
        "The namespace in which the engine runs.",
        "label_values(tiercel_playbooks_current, namespace)",
        all_value=".*",
    )
    yield _query_variable(
        "playbook",
        "Playbook",
        "Limits the panels that count runs of a playbook.",
        f"label_values(tiercel_playbook_info{{{ENGINE}}}, playbook)",
        all_value=".*",
    )
    yield _log_variable(
        "namespace",
        "Pod's namespace",
        "Limits the logs to pods of this namespace.",
        "k8s_ns_name",
        "",
    )
    yield _log_variable(
        "pod", "Pod", "Limits the logs to this pod.", "k8s_pod_name", '{k8s_ns_name=~"$namespace"}'
    )


def _query_variable(
    name: str, label: str, description: str, query: str, *, all_value: str
) -> build.QueryVariable:
    return (
        _variable(name, label, description, all_value)
        .datasource(PROMETHEUS)
        .query({"query": query, "refId": f"variable-{name}", "qryType": 5})
    )


def _log_variable(
    name: str, label: str, description: str, wanted: str, stream: str
) -> build.QueryVariable:
    query = {"label": wanted, "refId": f"variable-{name}", "stream": stream, "type": 1}
    return _variable(name, label, description, ".+").datasource(LOKI).query(query)


def _variable(name: str, label: str, description: str, all_value: str) -> build.QueryVariable:
    return (
        build.QueryVariable(name)
        .label(label)
        .description(description)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .include_all(True)
        .all_value(all_value)
        .multi(True)
        .current(model.VariableOption(text=["All"], value=["$__all"]))
    )


def _reloads() -> build.AnnotationQuery:
    """Return vertical lines where a set of playbooks came into force. ``generated`` adds the query."""
    return (
        build.AnnotationQuery()
        .name("Playbooks in force")
        .datasource(PROMETHEUS)
        .enable(True)
        .icon_color(BLUE)
    )


def _state() -> Iterator[Builder]:
    yield _state_panel(
        "Engine",
        "Whether Prometheus reaches the engine. While it is down, events that are posted are lost; "
        "Redis, NATS and a followed file keep them.",
        f'min(up{{job="tiercel", {ENGINE}}})',
        {"0": ("Down", RED), "1": ("Up", GREEN)},
        "TiercelDown",
        no_value="Not scraped",
    )
    yield _state_panel(
        "Playbooks",
        "Whether the set in force is that of the folder. If not, the folder has an error, and the "
        "last good set stays in force. `tiercel check` shows the error.",
        f"min(tiercel_playbooks_current{{{ENGINE}}})",
        {"0": ("Rejected", RED), "1": ("Current", GREEN)},
        "TiercelReloadFailed",
    )
    yield _state_panel(
        "Journal",
        "Whether the journal accepts writes. If not, senders get 503 and their events are not "
        "accepted.",
        f"min(tiercel_journal_writable{{{ENGINE}}})",
        {"0": ("Not writable", RED), "1": ("Writable", GREEN)},
        "TiercelJournalNotWritable",
    )
    yield _state_panel(
        "API server",
        "Whether the API server answers. If not, steps wait and nothing is lost.",
        f"min(tiercel_cluster_answers{{{ENGINE}}})",
        {"0": ("No answer", RED), "1": ("Answers", GREEN)},
        "TiercelApiServerUnreachable",
        no_value="Not used",
    )
    yield _state_panel(
        "Mode",
        "In a dry run the engine changes nothing and sends no messages.",
        f"max(tiercel_dry_run{{{ENGINE}}})",
        {"0": ("Enforce", GREEN), "1": ("Dry run", BLUE)},
        "operate.md#decide",
    )
    yield _number_panel(
        "Pauses",
        "Pauses in force. No step of a paused playbook starts; undo continues. `tiercel resume` "
        "ends them.",
        f"sum(tiercel_paused{{{ENGINE}}})",
        [(0, GREEN), (1, ORANGE)],
        link="operate.md#decide",
    )
    yield _number_panel(
        "Held steps",
        "Steps that exceed a budget and wait for a person. `tiercel history --state held` lists "
        "them, `tiercel approve` and `tiercel deny` decide.",
        f'sum(tiercel_queue_runs{{{ENGINE}, state="held"}})',
        [(0, GREEN), (1, ORANGE)],
        link="TiercelStepsHeld",
    )
    yield _number_panel(
        "Failed runs",
        "Runs that failed in the time range of the dashboard. `tiercel history --state failed` "
        "lists them.",
        "sum(" + _new("tiercel_runs_total", f'{PLAYBOOK}, outcome="failed"', "$__range") + ")"
        f" or 0 * sum(tiercel_playbooks_current{{{ENGINE}}})",
        [(0, GREEN), (1, RED)],
        link="TiercelActionFailing",
    )


def _events() -> Iterator[Builder]:
    yield _counts(
        "Events by result",
        "Events that the engine received. run: a playbook matched. unmatched: no playbook matched. "
        "duplicate: the event was here before. throttle, silence, mode, paused, self: a playbook "
        "matched and did not start a run. shed: the journal is nearly full. error: not an event. "
        "refused: could not be written.",
        "tiercel_events_total",
        ("result",),
        colors=RESULT_COLORS,
    )
    yield _share(
        "Events that start a run",
        "Share of the events that matched a playbook and started a run. A sudden drop often means "
        "that a rule was renamed or that a playbook no longer matches: `tiercel explain PLAYBOOKS "
        "--recent`.",
        "sum(" + _new("tiercel_events_total", f'{ENGINE}, result="run"') + ")"
        f" / sum({_new('tiercel_events_total', ENGINE)})",
        "matched",
    )
    yield _counts(
        "Suppressed runs",
        "Runs that a playbook did not start although it matched, by reason.",
        "tiercel_suppressed_runs_total",
        (
            "playbook",
            "reason",
        ),
        select=PLAYBOOK,
    )
    yield _counts(
        "Requests by HTTP status",
        "Answers of the event port. 202: a run was accepted. 200: nothing to run. 4xx: the "
        "sender's body or token is wrong. 503: the journal cannot be written, and the sender must "
        "send again.",
        "tiercel_bodies_total",
        ("status",),
    )
    yield _counts(
        "Events that Falcosidekick did not deliver",
        "Errors of Falcosidekick's outputs. It never sends an event twice, so these events are "
        "lost for that output. Empty if Prometheus does not scrape Falcosidekick.",
        "falcosecurity_falcosidekick_outputs_total",
        ("destination",),
        select='status="error"',
        link="TiercelEventsLostUpstream",
        color=RED,
    )
    yield (
        _timeseries(
            "Events that Falco dropped",
            "System calls and events that Falco dropped. It does not detect what it drops. Empty "
            "if Prometheus does not scrape Falco.",
        )
        .with_target(
            _query("sum(rate(falcosecurity_scap_n_drops_total[$__rate_interval]))", "kernel buffer")
        )
        .with_target(
            _query(
                "sum(rate(falcosecurity_falco_outputs_queue_num_drops_total[$__rate_interval]))",
                "queue of outputs",
            ).ref_id("B")
        )
        .unit("cps")
        .min(0)
        .color_scheme(_fixed(RED))
        .links([_help("TiercelEventsLostUpstream")])
    )
    yield (
        _timeseries(
            "Sources",
            "1 while Redis, NATS or the followed file delivers events. HTTP is not listed. Empty "
            "without such a source.",
        )
        .with_target(_query(f"min by (kind) (tiercel_source_connected{{{ENGINE}}})", "{{kind}}"))
        .min(0)
        .max(1)
        .decimals(0)
        .thresholds(_thresholds([(0, RED), (1, GREEN)]))
        .color_scheme(build.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
        .mappings(_mappings({"0": ("Disconnected", RED), "1": ("Connected", GREEN)}))
        .links([_link("Receive events", "sources.md")])
    )


def _actions() -> Iterator[Builder]:
    yield _counts(
        "Runs by outcome",
        "Runs that are over. done: every step did its work. skipped: nothing to do. refused: a "
        "guardrail or a person denied a step. failed: a step failed permanently. planned: dry run.",
        "tiercel_runs_total",
        ("outcome",),
        select=PLAYBOOK,
        colors=OUTCOME_COLORS,
        link="TiercelActionFailing",
    )
    yield _counts(
        "Runs by playbook",
        "Runs that are over, by playbook.",
        "tiercel_runs_total",
        ("playbook",),
        select=PLAYBOOK,
    )
    yield _counts(
        "Attempts by action",
        "Attempts of steps. An attempt that is repeated counts again.",
        "tiercel_attempts_total",
        ("action",),
    )
    yield _counts(
        "Attempts that did not succeed",
        "failed: the step will not be repeated. waiting: it will be repeated, for example because "
        "the API server does not answer. held, refused: a guardrail or a person. The log and "
        "`tiercel show RUN` have the message.",
        "tiercel_attempts_total",
        ("action", "state"),
        select=f'{ENGINE}, state=~"failed|waiting|held|refused"',
        link="TiercelActionFailing",
    )


def _latency() -> Iterator[Builder]:
    yield _quantiles(
        "Event to answer",
        "Time from the arrival of a body to the answer. It contains the write to the disk.",
        "tiercel_accept_seconds",
        [(0, GREEN), (0.25, ORANGE), (1, RED)],
    )
    yield _quantiles(
        "Event to first attempt",
        "Time that a run waits until its first step starts. It rises with the queue, and while the "
        "API server does not answer.",
        "tiercel_wait_seconds",
        [(0, GREEN), (5, ORANGE), (60, RED)],
    )
    yield _quantiles(
        "Event to end of the run",
        "Time from the receipt of a run to its end, with waits and repeats. This is how long an "
        "attacker has.",
        "tiercel_done_seconds",
        [(0, GREEN), (30, ORANGE), (120, RED)],
        by="outcome",
    )
    yield _quantiles(
        "Duration of an attempt",
        "Time of one attempt: calls to the API server, and messages.",
        "tiercel_attempt_seconds",
        [(0, GREEN), (1, ORANGE), (10, RED)],
        by="action",
    )


def _queue() -> Iterator[Builder]:
    yield (
        _timeseries(
            "Runs in the queue",
            "Runs that are not over. waiting: for a worker, for the next attempt or for the end of "
            "an outage. held: for a person.",
        )
        .with_target(_query(f"sum by (state) (tiercel_queue_runs{{{ENGINE}}})", "{{state}}"))
        .unit("short")
        .min(0)
        .links([_help("TiercelQueueOld")])
    )
    yield (
        _timeseries(
            "Age of the queue",
            "How long the run that is due first has waited for a worker. A healthy engine stays "
            "below a few seconds.",
        )
        .with_target(_query(f"max(tiercel_queue_oldest_due_seconds{{{ENGINE}}})", "oldest due run"))
        .unit("s")
        .min(0)
        .thresholds(_thresholds([(0, GREEN), (10, ORANGE), (60, RED)]))
        .thresholds_style(_threshold_lines())
        .links([_help("TiercelQueueOld")])
    )
    yield (
        _timeseries(
            "Held steps",
            "Steps that exceed a budget and wait for a person until `holdFor` ends. Then they are "
            "refused.",
        )
        .with_target(_query(f'sum(tiercel_queue_runs{{{ENGINE}, state="held"}})', "held"))
        .unit("short")
        .decimals(0)
        .min(0)
        .thresholds(_thresholds([(0, GREEN), (1, ORANGE)]))
        .thresholds_style(_threshold_lines())
        .links([_help("TiercelStepsHeld")])
    )
    yield (
        bargauge.Panel()
        .title("Targets left in the budgets")
        .description(
            "How many more targets the fullest window of each budget allows. At 0 the next step is "
            "held, refused or dropped, as `onExceeded` says. A budget that is spent is a large "
            "incident or a wrong playbook."
        )
        .datasource(PROMETHEUS)
        .height(8)
        .span(12)
        .with_target(
            _query(
                f"min by (effect, scope, limit, per, actions, playbooks) (tiercel_budget_left{{{ENGINE}}})",
                "{{effect}}: {{limit}} in {{per}} for each {{scope}} {{actions}} {{playbooks}}",
                instant=True,
            )
        )
        .unit("short")
        .decimals(0)
        .min(0)
        .thresholds(_thresholds([(0, RED), (1, ORANGE), (3, GREEN)]))
        .orientation(kinds.VizOrientation.HORIZONTAL)
        .display_mode(kinds.BarGaugeDisplayMode.BASIC)
        .reduce_options(_last())
        .links([_help("TiercelBudgetSpent")])
    )
    yield _counts(
        "Operator commands",
        "Commands of people: approve, deny, retry, undo, pause, resume.",
        "tiercel_decisions_total",
        ("decision",),
        link="operate.md#decide",
    )


def _playbooks() -> Iterator[Builder]:
    yield _counts(
        "Reloads of the folder",
        "accepted: a new set came into force. refused: the folder has an error, and the last good "
        "set stays.",
        "tiercel_reloads_total",
        ("result",),
        colors={"accepted": GREEN, "refused": RED},
        link="TiercelReloadFailed",
    )
    yield (
        _stat(
            "Playbooks in force since",
            "Time since a set of playbooks last came into force. Compare it with the time of your "
            "last merge.",
        )
        .span(6)
        .height(8)
        .with_target(
            _query(f"time() - max(tiercel_playbooks_loaded_timestamp_seconds{{{ENGINE}}})", "since")
        )
        .unit("s")
        .decimals(0)
        .thresholds(_thresholds([(0, BLUE)]))
        .links([_help("TiercelReloadFailed")])
    )
    yield (
        _stat(
            "Playbooks by mode",
            "enforce: acts. notify: only sends messages. dryRun: only plans. disabled: ignores "
            "events.",
        )
        .span(6)
        .height(8)
        .with_target(_query(f"sum by (mode) (tiercel_playbooks{{{ENGINE}}})", "{{mode}}"))
        .unit("short")
        .decimals(0)
        .thresholds(_thresholds([(0, BLUE)]))
        .text_mode(kinds.BigValueTextMode.VALUE_AND_NAME)
        .links([_link("Modes", "language.md")])
    )


def _capacity() -> Iterator[Builder]:
    yield (
        _timeseries(
            "Fill of the journal",
            "Used part of the journal's quota. From 90 % only Notice and more severe events are "
            "accepted, from 95 % Warning, from 98 % Critical. spool: used part of the spool.",
        )
        .with_target(_query(f"max(tiercel_journal_fill_ratio{{{ENGINE}}})", "used"))
        .with_target(_query(f"max(tiercel_spool_fill_ratio{{{ENGINE}}})", "spool"))
        .unit("percentunit")
        .min(0)
        .max(1)
        .thresholds(_thresholds([(0, GREEN), (0.8, ORANGE), (0.9, RED)]))
        .thresholds_style(_threshold_lines())
        .links([_help("metrics.md#tiercel_journal_fill_ratio")])
    )
    yield (
        _timeseries(
            "Runs in the spool",
            "Runs that wait on the disks of the engines, because the database of the journal does not "
            "answer.",
        )
        .with_target(_query(f"sum(tiercel_spool_runs{{{ENGINE}}})", "waiting"))
        .unit("short")
        .decimals(0)
        .min(0)
        .links([_link("Spool", "replicas.md#spool")])
    )
    yield (
        _timeseries("Connections", "Open connections of senders to the event port.")
        .with_target(_query(f"sum(tiercel_connections{{{ENGINE}}})", "open"))
        .unit("short")
        .decimals(0)
        .min(0)
        .links([_link("Limits", "limits.md")])
    )
    yield _counts(
        "Connections that a limit refused",
        "many: too many connections. evicted: the oldest silent connection made room. late: a "
        "request was too slow.",
        "tiercel_connections_refused_total",
        ("reason",),
        link="limits.md",
    )
    yield (
        _timeseries(
            "Rights on the API server",
            "missing: a step that needs the right fails. excess: a stolen token could use it, and no "
            "playbook needs it. unknown: accounts whose rights could not be checked. `tiercel status` "
            "lists them, `tiercel rbac` prints the roles.",
        )
        .with_target(_query(f"sum(tiercel_rights_missing{{{ENGINE}}})", "missing"))
        .with_target(_query(f"sum(tiercel_rights_excess{{{ENGINE}}})", "excess"))
        .with_target(
            _query(f"sum(1 - min by (account) (tiercel_rights_known{{{ENGINE}}}))", "unknown")
        )
        .unit("short")
        .decimals(0)
        .min(0)
        .links([_help("operate.md#status")])
    )


def _logs() -> Iterator[Builder]:
    yield (
        text.Panel()
        .title("")
        .transparent(True)
        .height(2)
        .span(24)
        .mode(TextMode.MARKDOWN)
        .content(
            "Select **Pod's namespace** and **Pod** above. Falco's lines say what happened, and "
            "the lines that begin with `tiercel` say what Tiercel did about it. `tiercel show RUN` "
            "tells the whole story of a run."
        )
    )
    yield (
        _log_panel(
            "Falco's events and Tiercel's attempts",
            "Both have the labels k8s_ns_name and k8s_pod_name of the pod. Open a line to see the "
            "rule, the priority and all fields.",
            12,
        )
        .with_target(_log_query("Falco", f'{{source!="tiercel", {POD}}}'))
        .with_target(
            _log_query(
                "Tiercel",
                f'{{source="tiercel", {POD}}} | json | line_format "tiercel {{{{.playbook}}}}/{{{{.step}}}}: '
                '{{.action}} {{.state}} {{.message}} (run {{.run}})"',
            )
        )
        .links([_link("What the audit contains", "glossary.md")])
    )
    yield (
        _log_panel(
            "Operator commands", "Who approved, denied, retried, undid or paused what, and why.", 6
        )
        .with_target(
            _log_query(
                "Commands",
                '{source="tiercel"} | json | decision != "" | line_format '
                '"{{.by}}: {{.decision}} {{.playbook}} {{.run}} {{.step}} {{.reason}}"',
            )
        )
        .links([_link("Decide", "operate.md#decide")])
    )


# The parts of panels.


def _state_panel(
    title: str,
    description: str,
    expression: str,
    values: Mapping[str, tuple[str, str]],
    link: str,
    *,
    no_value: str = "No data",
) -> stat.Panel:
    """Return a panel with a word and a colour for each value. The link is a runbook or a page."""
    return (
        _stat(title, description)
        .with_target(_query(expression, title))
        .mappings(_mappings(values))
        .thresholds(_thresholds([(0, "text")]))
        .no_value(no_value)
        .links([_help(link)])
    )


def _number_panel(
    title: str,
    description: str,
    expression: str,
    thresholds: Sequence[tuple[float, str]],
    *,
    link: str,
) -> stat.Panel:
    return (
        _stat(title, description)
        .with_target(_query(expression, title))
        .unit("short")
        .decimals(0)
        .thresholds(_thresholds(thresholds))
        .no_value("No data")
        .links([_help(link)])
    )


def _counts(
    title: str,
    description: str,
    counter: str,
    by: Sequence[str],
    *,
    select: str = ENGINE,
    colors: Mapping[str, str] | None = None,
    color: str = "",
    link: str = "",
) -> timeseries.Panel:
    """Return a panel with bars: each is the number of new events of its interval.

    by: the labels that distinguish series. colors: by the name of a series. color: of all series. link: default:
    the description of the metric.
    """
    legend = ": ".join(f"{{{{{label}}}}}" for label in by)
    panel = (
        _timeseries(title, f"{description} Each bar is the number in its interval.")
        .with_target(_query(f"sum by ({', '.join(by)}) ({_new(counter, select)})", legend))
        .interval("1m")
        .unit("short")
        .decimals(0)
        .min(0)
        .draw_style(kinds.GraphDrawStyle.BARS)
        .fill_opacity(80)
        .stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
        .links([_help(link or f"metrics.md#{counter}")])
    )
    if color:
        panel.color_scheme(_fixed(color))
    for name, one in (colors or {}).items():
        fixed = {"mode": model.FieldColorModeId.FIXED.value, "fixedColor": one}
        panel.override_by_name(name, [model.DynamicConfigValue(id_val="color", value=fixed)])
    return panel


def _share(title: str, description: str, expression: str, legend: str) -> timeseries.Panel:
    return (
        _timeseries(title, description)
        .with_target(_query(expression, legend))
        .unit("percentunit")
        .interval("1m")
        .min(0)
        .max(1)
        .links([_link("How a playbook matches", "language.md")])
    )


def _quantiles(
    title: str,
    description: str,
    histogram: str,
    thresholds: Sequence[tuple[float, str]],
    *,
    by: str = "",
) -> timeseries.Panel:
    """Return a panel with the median and the 99th percentile of a histogram."""
    labels, legend = (f"le, {by}", f" {{{{{by}}}}}") if by else ("le", "")
    panel = (
        _timeseries(title, description)
        .interval("1m")
        .unit("s")
        .min(0)
        .thresholds(_thresholds(thresholds))
        .thresholds_style(_threshold_lines())
        .links([_help(f"metrics.md#{histogram}")])
    )
    for quantile, name in ((0.5, "half"), (0.99, "99 %")):
        buckets = f"sum by ({labels}) ({_new(f'{histogram}_bucket', ENGINE)})"
        query = _query(f"histogram_quantile({quantile}, {buckets})", f"{name} faster than{legend}")
        panel.with_target(query.ref_id("A" if quantile < 0.9 else "B"))  # noqa: PLR2004
    return panel


def _timeseries(title: str, description: str) -> timeseries.Panel:
    return (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .height(8)
        .span(12)
        .line_width(1)
        .show_points(kinds.VisibilityMode.AUTO)
        .legend(
            common.VizLegendOptions()
            .display_mode(kinds.LegendDisplayMode.LIST)
            .placement(kinds.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(kinds.TooltipDisplayMode.MULTI)
            .sort(kinds.SortOrder.DESCENDING)
        )
    )


def _stat(title: str, description: str) -> stat.Panel:
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .height(4)
        .span(3)
        .color_mode(kinds.BigValueColorMode.BACKGROUND)
        .graph_mode(kinds.BigValueGraphMode.NONE)
        .text_mode(kinds.BigValueTextMode.AUTO)
        .reduce_options(_last())
    )


def _log_panel(title: str, description: str, height: int) -> logs.Panel:
    return (
        logs.Panel()
        .title(title)
        .description(description)
        .datasource(LOKI)
        .height(height)
        .span(24)
        .show_time(True)
        .show_labels(False)
        .show_common_labels(False)
        .wrap_log_message(True)
        .prettify_log_message(False)
        .enable_log_details(True)
        .sort_order(kinds.LogsSortOrder.DESCENDING)
        .dedup_strategy(kinds.LogsDedupStrategy.NONE)
    )


def _new(counter: str, select: str, window: str = "$__interval") -> str:
    """Return an expression for what a counter counted in a window.

    ``increase`` does not see the first event of a series, because a series appears with the value 1. It also
    loses an event between two windows. For rare events, both matter. A counter that is smaller than before was
    reset.
    """
    series = f"{counter}{{{select}}}"
    return f"{series} - {series} offset {window} >= 0 or {series}"


def _query(expression: str, legend: str, *, instant: bool = False) -> prometheus.Dataquery:
    query = prometheus.Dataquery().ref_id("A").expr(expression).legend_format(legend)
    return query.instant() if instant else query.range()


def _log_query(name: str, expression: str) -> loki.Dataquery:
    return (
        loki.Dataquery()
        .ref_id(name)
        .expr(expression)
        .query_type(LokiQueryType.RANGE.value)
        .max_lines(500)
    )


def _thresholds(steps: Sequence[tuple[float, str]]) -> build.ThresholdsConfig:
    """Return thresholds: each value with the colour from there on. The first one has no lower bound."""
    (_, first), *others = steps
    levels = [model.Threshold(color=first, value=None)]
    levels += [model.Threshold(color=color, value=value) for value, color in others]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(levels)


def _fixed(color: str) -> build.FieldColor:
    return build.FieldColor().mode(model.FieldColorModeId.FIXED).fixed_color(color)


def _threshold_lines() -> common.GraphThresholdsStyleConfig:
    return common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)


def _mappings(values: Mapping[str, tuple[str, str]]) -> list[model.ValueMapping]:
    options = {
        value: model.ValueMappingResult(text=word, color=color)
        for value, (word, color) in values.items()
    }
    return [model.ValueMap(options=options)]


def _last() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def _help(link: str) -> build.DashboardLink:
    """Return a link to the runbook of an alert, or to a page. link: the name of an alert, or a path in docs/."""
    if link.startswith("Tiercel"):
        return _link(f"Runbook of {link}", f"runbooks.md#{link.lower()}")
    return _link("What it means", link)


def _link(title: str, path: str) -> build.DashboardLink:
    return (
        build.DashboardLink(title)
        .type(model.DashboardLinkType.LINK)
        .url(f"{DOCS}/{path}")
        .icon("doc")
        .target_blank(True)
    )


def _plain(value: object) -> Any:
    """Return a model of the SDK as JSON."""
    return json.loads(json.dumps(value, cls=JSONEncoder))


def generated() -> str:
    """Return the text of tiercel.json."""
    board = _plain(dashboard().build())
    # The SDK writes the fields of an interval variable into each variable. Grafana's schema does not have them.
    for variable in board["templating"]["list"]:
        for name in ("auto", "auto_min", "auto_count"):
            variable.pop(name, None)
    # The SDK does not have the query of a Prometheus annotation.
    (annotation,) = board["annotations"]["list"]
    changes = (
        f"changes(tiercel_playbooks_loaded_timestamp_seconds{{{ENGINE}}}[$__rate_interval]) > 0"
    )
    annotation["target"] = _plain(_query(changes, "").build())
    return json.dumps(board, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(generated(), encoding="utf-8")
    sys.stdout.write(f"{FILE}\n")
