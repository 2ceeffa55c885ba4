"""Talon's notifiers as steps of ``finally``.

The receiver of a notifier is in Talon's own configuration, which is not read. The steps refer to secrets.
"""

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
    "smtp": {
        "action": "notify.send",
        "with": {"to": {"fromSecret": "mail-url"}, "title": "%rule", "body": _TEXT},
    },
    "k8sevents": {
        "action": "kubernetes.event",
        "with": {"message": "playbook %playbook %run.outcome: %rule"},
    },
}
_SECRETS = {
    "slack": "create the secret slack-webhook-url with the webhook URL from Talon's configuration",
    "smtp": "create the secret mail-url with an Apprise URL, such as mailtos://USER:PASSWORD@HOST?to=ADDRESS",
}
"""What an operator must create for a notifier."""
_UNSUPPORTED: dict[str, str | None] = {
    "webhook": "use http.request with the URL from Talon's configuration",
    "loki": "collect the audit of the engine (JSON lines on stdout) with a log shipper",
    "elasticsearch": "collect the audit of the engine (JSON lines on stdout) with a log shipper",
}
"""Notifiers that Tiercel does not have -> what to use instead."""


def notifier_steps(notifiers: tuple[SourceText, ...], report: ImportReport) -> list[dict[str, Any]]:
    """Return the steps of ``finally``. Report the notifiers that cannot be converted."""
    found: dict[str, dict[str, Any]] = {}
    for notifier in notifiers:
        name = notifier.text.lower()
        if name in _STEPS:
            found[name] = _STEPS[name]
            what = f"Tiercel sends {name} once per run; Talon sends it after each action"
            report.warning(notifier.where, what, _SECRETS.get(name))
        elif name in _UNSUPPORTED:
            what = f"Tiercel does not have the notifier {name}; it is not converted"
            report.error(notifier.where, what, _UNSUPPORTED[name])
        else:
            what = f"Talon does not have a notifier `{notifier.text}`"
            report.error(notifier.where, what, nearest(name, {*_STEPS, *_UNSUPPORTED}))
    return list(found.values())
