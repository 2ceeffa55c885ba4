"""http.request: webhooks, functions, tickets."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote, urlsplit

from engine.actions.action import Doing, Done, action
from engine.actions.parameter import Integer, Text, header_value
from engine.actions.structure import Either, Json, ListOf, MapOf
from engine.errors import PermanentError, TemporaryError
from engine.ports.http import Outside, SecretName

_PLAIN = "".join(set(map(chr, range(0x20, 0x7F))) - {"%"})
_LONGEST = 2000
"""Characters of a note; servers take some 8,000 of all headers."""


def escape(text: str) -> str:
    """What an event says, as one segment of a URL: it can neither leave its place nor name a host."""
    return quote(text, safe="")


def url_fault(text: str) -> str | None:
    """What is wrong with a URL; a segment ``..``, which ``escape`` cannot hide, would leave its place."""
    try:
        segments = urlsplit(text).path.split("/")
    except ValueError:
        return "is no URL"
    return "has a segment . or .." if {".", ".."} & set(map(unquote, segments)) else None


@action(
    "http.request",
    effect="notify",
    example={
        "url": "https://tickets.example.com/api/pods/%k8s.pod.name",
        "headers": {"Authorization": {"fromSecret": "tickets-token"}},
        "body": {"title": "%rule", "command": "%proc.cmdline"},
    },
    repeatable=False,
)
def send_request(
    outside: Outside,
    doing: Doing,
    *,
    url: Annotated[str, Text(url_fault, escape)],
    method: Literal["POST", "PUT", "PATCH", "GET", "DELETE"] = "POST",
    headers: Annotated[
        dict[str, str | SecretName] | None, MapOf(Either(Text(header_value)))
    ] = None,
    body: Annotated[Any, Json()] = None,
    expect: Annotated[list[int] | None, ListOf(Integer(100, 599))] = None,
    effect: Literal["notify", "disrupt"] = "notify",
) -> Done:
    """Send an HTTP request. Its host must be on --http-hosts; redirects are not followed.

    The header Idempotency-Key is the run and the step. What a message would say besides its text is in the
    header Tiercel-Note: how many more requests this one stands for (a digest), and under mode: notify what
    was not done. There, what is not printable ASCII is percent-encoded; the body is as the playbook has it.

    url: http or https; what the event says is percent-encoded within it.
    method: the HTTP method.
    headers: name -> text, or a secret.
    body: text, or any JSON; texts within JSON may have templates.
    expect: the statuses that count as success; 200 to 299 by default.
    effect: disrupt where the request does what guardrails should bound.
    """
    del effect
    sent: dict[str, str | SecretName] = {"Idempotency-Key": f"{doing.run}/{doing.step}"}
    if doing.also:
        sent["Tiercel-Note"] = quote(doing.also.replace("\n", "; "), safe=_PLAIN)[:_LONGEST]
    if body is not None and not isinstance(body, str):
        sent["Content-Type"] = "application/json"
    answer = outside.request(method, url, sent | (headers or {}), body)
    if answer.status in expect if expect else 200 <= answer.status < 300:  # noqa: PLR2004 - HTTP
        return Done(f"{method} {url[:200]}: {answer.status}", answer.json)
    if answer.status >= 500:  # noqa: PLR2004 - HTTP
        raise TemporaryError(f"{method}: answered {answer.status}", answered=True)
    raise PermanentError(f"{method}: answered {answer.status}")
