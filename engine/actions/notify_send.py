"""notify.send: send a message through one of over 100 services, mail included."""

from __future__ import annotations

import re
from typing import Annotated

from engine.actions.parameters import Secret, Text
from engine.actions.registry import ActionResult, StepContext, action
from engine.model.calls import SecretName
from engine.outbound.api import HttpClient

MAX_TITLE = 250
"""Characters. Apprise's own limit for services without a smaller one."""
MAX_BODY = 32_768
"""Characters. Apprise's own limit for services without a smaller one."""
_BREAK = "\u200b"
"""ZERO WIDTH SPACE. It splits markup and mentions, and people do not see it."""
_CONTROL = re.compile(
    r"[^\S\n\t ]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_MARKUP = re.compile(r"[@<\]]|:(?=//)|(?<=www)\.(?=\w)", re.IGNORECASE)
"""The characters after which a break prevents mentions (@all, <!here>), links ([a](b), <a|b>) and URLs."""


def neutralize(text: str) -> str:
    """Return a value from an event without control characters, and without mentions, links and URLs.

    A break (U+200B) follows each ``@``, ``<`` and ``]``, and splits ``://`` and ``www.``.
    """
    return _MARKUP.sub(lambda found: found[0] + _BREAK, _CONTROL.sub(" ", text))


@action(
    "notify.send",
    effect="notify",
    example={
        "to": {"fromSecret": "security-mail"},
        "title": "%rule",
        "body": "%priority in %k8s.ns.name/%k8s.pod.name: %proc.cmdline",
    },
    repeatable=False,
)
def send_notification(
    http: HttpClient,
    context: StepContext,
    *,
    to: Annotated[SecretName, Secret()],
    body: Annotated[str, Text(escape=neutralize)],
    title: Annotated[str | None, Text(escape=neutralize)] = None,
) -> ActionResult:
    """Send a message by mail, or through Teams, PagerDuty, Discord, Telegram or one of over 100 other services.

    The secret has an Apprise URL, which names the service, the credentials and the recipients. An event cannot
    change them. docs/notifications.md lists the services, examples of URLs, and the limits.

    The message is plain text. Values from the event cannot create mentions, links or headers: an invisible
    break (U+200B) follows each `@`, `<` and `]`, and splits URLs. Each service cuts the message to its own
    limit.

    Link-local addresses and the addresses of metadata servers are refused, redirects are not followed, and
    certificates are verified. The variables HTTP_PROXY, HTTPS_PROXY and NO_PROXY apply, but not to mail.
    --http-hosts does not apply.

    to: the secret with an Apprise URL, for example `mailtos://USER:PASSWORD@example.com?to=soc@example.com`.
    body: the message. It is cut to 32,768 characters.
    title: the title or subject: one line of at most 250 characters. Services without titles put it into the
      message.
    """
    line = " ".join((title or "").split())[:MAX_TITLE]
    note = f"\n{neutralize(context.note)}" if context.note else ""
    text = f"{body[: MAX_BODY - len(note)]}{note}"
    http.send_notification(to, line, text)
    shown = " ".join((f"{line}: {text}" if line else text).replace(_BREAK, "").split())
    return ActionResult(f"to {to.name}: {shown[:200]}")
