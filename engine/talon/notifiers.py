"""Talon's notifiers. Where they send to stands in Talon's own config, so here it is named, not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.language.findings import nearest

if TYPE_CHECKING:
    from engine.talon.import_report import ImportReport
    from engine.talon.rules_file import SourceText

_TEXT = "%rule: %k8s.ns.name/%k8s.pod.name, playbook %playbook %run.outcome"
_STEPS: dict[str, dict[str, Any]] = {
    "slack": {
        "action": "slack.post",
        "with": {"webhook": {"fromSecret": "slack-webhook-url"}, "text": _TEXT},
    },
    "k8sevents": {
        "action": "kubernetes.event",
        "with": {"message": "playbook %playbook %run.outcome: %rule"},
    },
}
_ELSEWHERE: dict[str, str | None] = {
    "webhook": "http.request, with the URL of Talon's config",
    "smtp": None,
    "loki": "the engine's audit, JSON lines on stdout, is for a log shipper",
    "elasticsearch": "the engine's audit, JSON lines on stdout, is for a log shipper",
}


def steps(notifiers: tuple[SourceText, ...], notes: ImportReport) -> list[dict[str, Any]]:
    """The steps of ``finally``; what has no counterpart is told."""
    found: dict[str, dict[str, Any]] = {}
    for said in notifiers:
        name = said.text.lower()
        if name in _STEPS:
            found[name] = _STEPS[name]
            what = f"{name} is told once a run here, in Talon after each action"
            todo = "put the webhook's URL of Talon's config into the secret slack-webhook-url"
            notes.differs(said.where, what, todo if name == "slack" else None)
        elif name in _ELSEWHERE:
            what = f"the notifier {name} has no counterpart here; left out"
            notes.lost(said.where, what, _ELSEWHERE[name])
        else:
            known = {*_STEPS, *_ELSEWHERE}
            notes.lost(said.where, f"`{said.text}` is no notifier of Talon's", nearest(name, known))
    return list(found.values())
