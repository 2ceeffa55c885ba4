"""A previewed event as text (``plan``), and the parts that other outputs share."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from engine.cluster.policy_providers.cut import kept_destinations
from engine.model.event import PRIORITIES, format_time
from engine.model.event_subject import subject_of
from engine.model.safe_text import printable
from engine.render.text import count, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.model.calls import Call, Object, OutboundRequest
    from engine.model.event import Event
    from engine.model.playbook import Playbook
    from engine.model.run import StepResult
    from engine.preview.preview import PreviewedRun

COLORS = {
    "planned": "cyan", "done": "green", "skipped": "yellow", "refused": "magenta", "failed": "red",
    "waiting": "blue", "running": "blue", "held": "magenta", "undone": "yellow",
}  # fmt: skip
_SIGNS = {"create": "+", "apply": "+", "patch": "~", "delete": "-"}
_SIGN_COLOURS = {"+": "green", "~": "yellow", "-": "red"}
_TARGET_WIDTH = 46
_MAX_OUTPUT_LINES, _MAX_OUTPUT_WIDTH = 40, 200


def headline(event: Event) -> str:
    """Return one line with the priority, rule, pod, host and time of an event."""
    subject = subject_of(event)
    priority = "no priority" if event.priority is None else PRIORITIES[event.priority]
    pod = "/".join(part for part in (subject.namespace, subject.pod) if part)
    when = format_time(event.time_ns).replace("T", " ")
    parts = [priority, event.rule, pod or "no pod", event.hostname or "no host", when]
    return click.style("  ".join(short(part, 80) for part in parts), bold=True)


def event_lines(
    event: Event, runs: Sequence[PreviewedRun], playbooks: int, *, why: bool = False
) -> Iterator[str]:
    """Yield the text of one event.

    playbooks: the number of all playbooks. why: also show why each playbook matches.
    """
    yield headline(event)
    for previewed in runs:
        playbook = previewed.run.playbook
        suppressed = previewed.suppressed
        mode = f"suppressed: {suppressed}" if suppressed else playbook.mode
        yield f"  {playbook.name}  {click.style(printable(mode), dim=bool(suppressed))}"
        if why:
            yield from (f"    {line}" for line in match_reason_lines(event, playbook))
        yield from step_lines(previewed.results)
    others = playbooks - len(runs)
    if others:
        noun = "other playbook" if runs else "playbook"
        yield f"  {count(others, noun)} did not match (tiercel explain shows why)."


def match_reason_lines(event: Event, playbook: Playbook) -> Iterator[str]:
    """Yield why the playbook matches: each key of ``match`` and each condition, with the actual value."""
    match = playbook.match
    seen = {
        "rules": (match.rules, event.rule),
        "priority": (
            match.priority is not None and f"{PRIORITIES[match.priority]} or worse",
            "" if event.priority is None else PRIORITIES[event.priority],
        ),
        "sources": (match.sources, event.source),
        "tags": (match.tags_any or match.tags_all or match.tags_none, ", ".join(event.tags)),
        "hostnames": (match.hostnames, event.hostname),
    }
    for key, (wanted, actual) in seen.items():
        if wanted:
            text = wanted if isinstance(wanted, str) else ", ".join(sorted(wanted))
            yield f"{key:<11}{short(str(actual), 60)!r} matches {short(text, 80)}"
    for condition in playbook.conditions:
        field = condition.text.partition(" ")[0]
        value = event.fields.get(field)
        actual = f", value {short(str(value), 60)!r}" if value is not None else ""
        yield f"condition  {short(condition.text, 100)} holds{actual}"


def step_lines(results: Sequence[StepResult], *, bodies: bool = False) -> Iterator[str]:
    """Yield the steps of a run, each with its API calls and HTTP requests. bodies: also show what is sent."""
    width = max((len(result.step) for result in results), default=0)
    for number, result in enumerate(results, 1):
        state = click.style(f"{result.state:<8}", fg=COLORS.get(result.state))
        yield f"    {number}  {result.step:<{width}}  {state}  {short(result.message)}"
        for call in result.calls:
            yield f"         {_call_line(call)}"
            if bodies:
                yield click.style(f"                  {printable(json.dumps(call.body))}", dim=True)
        for request in result.requests:
            yield f"         {_request_line(request)}"
        if bodies:
            yield from _answer_lines(result.answer)


def _answer_lines(answer: Any) -> Iterator[str]:
    """Yield the end of the output of a command or a log, and the artifact, if the answer has them."""
    found = answer if isinstance(answer, dict) else {}
    artifact, output = found.get("artifact"), found.get("output")
    if isinstance(artifact, dict):
        named = ("url", "size", "sha256")
        yield "         " + printable("  ".join(f"{key} {artifact.get(key)}" for key in named))
    if isinstance(output, str):
        lines = output.splitlines()
        if len(lines) > _MAX_OUTPUT_LINES:
            yield f"         … the last {_MAX_OUTPUT_LINES} of {len(lines)} lines (-o json shows all)"
        for line in lines[-_MAX_OUTPUT_LINES:]:
            yield click.style(f"         | {printable(line[:_MAX_OUTPUT_WIDTH])}", dim=True)


def _call_line(call: Call) -> str:
    sign = click.style(_SIGNS[call.verb], fg=_SIGN_COLOURS[_SIGNS[call.verb]])
    where = f" in {call.namespace}" if call.namespace else ""
    target = f"{call.resource}/{call.name}{where}"
    return f"{sign} {call.verb:<6} {target:<{_TARGET_WIDTH}}  {short(_change_text(call), 120)}"


def _change_text(call: Call) -> str:
    """Return what a call changes, in a few words."""
    body = call.body
    if call.verb == "delete":
        grace = body.get("gracePeriodSeconds")
        grace_text = "" if grace is None else f", grace period {grace}s"
        return f"uid {body['preconditions']['uid']}{grace_text}"
    if call.verb == "patch":
        metadata = body.get("metadata") or {}
        changes = [
            f"- {part} {key}" if value is None else f"+ {part} {key}={value}"
            for part in ("label", "annotation")
            for key, value in (metadata.get(f"{part}s") or {}).items()
        ]
        return ", ".join(changes) or json.dumps(body)
    if call.resource.endswith("networkpolicies") and isinstance(body.get("spec"), dict):
        return _policy_text(body)
    return str(body.get("message") or json.dumps(body))


def _policy_text(body: Object) -> str:
    """Return what a policy cuts. It may be of any kind."""
    blocked = kept_destinations((body.get("metadata") or {}).get("annotations") or {})
    if blocked:
        return f"egress: all except {', '.join(map(str, blocked.values()))}"
    spec = body["spec"]
    if "policyTypes" in spec:
        return ", ".join(f"{d.lower()}: {_rules(spec, d.lower())}" for d in spec["policyTypes"])
    cut = [d for d in ("ingress", "egress") if spec.get(d) or spec.get(f"{d}Deny")]
    return f"deny {' and '.join(cut)}"


def _rules(spec: dict[str, Any], direction: str) -> str:
    rules = spec.get(direction) or []
    if not rules:
        return "none"
    peers = [peer for rule in rules for peer in rule.get("to", rule.get("from", []))]
    names = []
    for peer in peers:
        labels = (peer.get("namespaceSelector") or {}).get("matchLabels") or {}
        name = peer.get("ipBlock", {}).get("cidr") or labels.get("kubernetes.io/metadata.name", "")
        names.append("kube-dns" if "podSelector" in peer else name)
    return "only " + ", ".join(names)


def _request_line(request: OutboundRequest) -> str:
    body = request.body if isinstance(request.body, str) else json.dumps(request.body)
    return f"{click.style('>', fg='blue')} {request.method:<6} {short(request.url, 60)}  {short(body, 120)}"


class Totals:
    """The totals in the last line of ``plan``."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, runs: Sequence[PreviewedRun]) -> None:
        """Add the runs of one event."""
        self._counts["event"] += 1
        for run in runs:
            self._counts["run"] += run.suppressed is None
            for result in run.results:
                self._counts["step"] += 1
                if result.state == "planned":
                    self._counts["write"] += len(result.calls)
                    self._counts["message"] += len(result.requests)

    def line(self) -> str:
        """Return the last line."""
        words = ("event", "run", "step", "write", "message")
        totals = ", ".join(count(self._counts[word], word) for word in words)
        return f"{totals}. Nothing was changed."
