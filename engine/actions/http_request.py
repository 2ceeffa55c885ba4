"""http.request: webhooks, functions, tickets."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote, urlsplit

from engine.actions.action import Doing, Done, action
from engine.actions.parameter import Integer, Text, header_value
from engine.actions.structure import Either, Json, ListOf, MapOf
from engine.errors import PermanentError, TemporaryError
from engine.ports.http import Outside, SecretName


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

    url: http or https; what the event says is percent-encoded within it.
    method: the HTTP method.
    headers: name -> text, or a secret.
    body: text, or any JSON; texts within JSON may have templates.
    expect: the statuses that count as success; 200 to 299 by default.
    effect: disrupt where the request does what guardrails should bound.
    """
    del effect
    sent: dict[str, str | SecretName] = {"Idempotency-Key": f"{doing.run}/{doing.step}"}
    if body is not None and not isinstance(body, str):
        sent["Content-Type"] = "application/json"
    answer = outside.request(method, url, sent | (headers or {}), body)
    if answer.status in expect if expect else 200 <= answer.status < 300:  # noqa: PLR2004 - HTTP
        return Done(f"{method} {url[:200]}: {answer.status}", answer.json)
    if answer.status >= 500:  # noqa: PLR2004 - HTTP
        raise TemporaryError(f"{method}: answered {answer.status}", answered=True)
    raise PermanentError(f"{method}: answered {answer.status}")
