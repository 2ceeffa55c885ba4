"""http.request: webhooks, functions, tickets."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote, unquote

from engine.actions.composite_parameters import Json, ListOf, MapOf, SecretOr
from engine.actions.parameters import Integer, Text, header_value
from engine.actions.registry import ActionResult, StepContext, action
from engine.model.calls import SecretName
from engine.model.errors import PermanentError, RefusedError, TemporaryError
from engine.outbound.api import HttpClient
from engine.outbound.destination import mask_userinfo, parse_url

if TYPE_CHECKING:
    from engine.language.findings import Findings
    from engine.language.template import Template
    from engine.language.yaml_source import Path

_PLAIN = "".join(set(map(chr, range(0x20, 0x7F))) - {"%"})
_LONGEST = 2000
"""Characters of a note; servers take some 8,000 of all headers."""
_START = re.compile(r"https?://(?:[^/?#]|\Z)", re.IGNORECASE)
"""How the text before the first field of a URL begins; the field may be the host."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
"""The name of a header (RFC 9110, 5.1)."""
_FRAMING = frozenset(
    [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "te",
        "trailer",
        "expect",
    ]
)
"""Headers that say where a request goes and where it ends; the engine sets those that it needs."""


def escape(text: str) -> str:
    """What an event says, as one segment of a URL: it can neither leave its place nor name a host."""
    return quote(text, safe="")


def url_fault(text: str) -> str | None:
    """What is wrong with a URL; a segment ``..``, which ``escape`` cannot hide, would leave its place."""
    try:
        segments = parse_url(text).target.partition("?")[0].split("/")
    except RefusedError as error:
        return f"is not a valid URL: {error}"
    return "has a segment . or .." if {".", ".."} & set(map(unquote, segments)) else None


def header_fault(name: str) -> str | None:
    """What is wrong with the name of a header."""
    if not _TOKEN.fullmatch(name):
        return "is not a valid name of a header (letters, digits and -)"
    if name.lower() in _FRAMING:
        return "is a header that the engine sets itself"
    return None


class Url(Text):
    """An http(s) URL. Its scheme is literal text."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """A Template; a URL without scheme or host is reported."""
        template: Template | None = Text(escape=self.escape).compile(data, path, findings, steps)
        if template is None:
            return None
        fault = None
        if not template.names:
            fault = url_fault("".join(map(str, template.parts)))
        elif not _START.match(str(template.parts[0])):
            fault = (
                "is not a valid URL: the URL must begin with http:// or https:// and name a host"
            )
        if fault:
            findings.add(
                path, "bad-value", f"`{mask_userinfo(data)[:80]}` {fault}", "https://HOST/PATH"
            )
        return template


class Headers(MapOf):
    """Header names, which are equal in any case, and their values."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Name -> compiled value; a name that is given twice is reported at the later place."""
        compiled = super().compile(data, path, findings, steps)
        seen: set[str] = set()
        for name in compiled or ():
            if name.lower() in seen:
                what = f"the header `{name[:80]}` is given twice; names of headers ignore case"
                findings.add((*path, name), "bad-parameter", what, key=True)
            seen.add(name.lower())
        return compiled


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
    http: HttpClient,
    context: StepContext,
    *,
    url: Annotated[str, Url(url_fault, escape)],
    method: Literal["POST", "PUT", "PATCH", "GET", "DELETE"] = "POST",
    headers: Annotated[
        dict[str, str | SecretName] | None, Headers(SecretOr(Text(header_value)), header_fault)
    ] = None,
    body: Annotated[Any, Json()] = None,
    expect: Annotated[list[int] | None, ListOf(Integer(100, 599))] = None,
    effect: Literal["notify", "disrupt"] = "notify",
) -> ActionResult:
    """Send an HTTP request. Its host must be on --http-hosts; redirects are not followed.

    The header Idempotency-Key is the run and the step. At most 64 KiB of an answer are kept, if it is JSON;
    later steps can use it. The proxies of HTTP_PROXY, HTTPS_PROXY and NO_PROXY apply.

    A request goes to the address that was checked. Link-local addresses and those of metadata servers
    (169.254.169.254) are refused, also if a name leads there, unless --http-hosts names the address. Through a
    proxy only the host is checked; the proxy resolves the name.

    What a message would say besides its text is in the header Tiercel-Note: how many more requests this one
    stands for (a digest), and under mode: notify what was not done. There, what is not printable ASCII is
    percent-encoded; the body is as the playbook has it.

    url: http or https, without a user; what the event says is percent-encoded within it.
    method: the HTTP method.
    headers: name -> text, or a secret. Names may be in any case. Host, Content-Length and other headers that
      frame a request are set by the engine.
    body: text, or any JSON; texts within JSON may have templates.
    expect: the statuses that count as success; 200 to 299 by default.
    effect: disrupt if the request does what guardrails should bound. The step then has the event's pod as its
      target. The pod is found and verified, and protected targets, maxEventAge and budgets apply.
    """
    del effect
    sent: dict[str, str | SecretName] = {"Idempotency-Key": f"{context.run}/{context.step}"}
    if context.note:
        sent["Tiercel-Note"] = quote(context.note.replace("\n", "; "), safe=_PLAIN)[:_LONGEST]
    if body is not None and not isinstance(body, str):
        sent["Content-Type"] = "application/json"
    written = headers or {}
    names = {name.lower() for name in written}
    own = {name: value for name, value in sent.items() if name.lower() not in names}
    answer = http.request(method, url, own | written, body)
    if answer.status is None:
        return ActionResult(f"{method} {url[:200]}")
    if answer.status in expect if expect else 200 <= answer.status < 300:  # noqa: PLR2004 - HTTP
        return ActionResult(f"{method} {url[:200]}: {answer.status}", answer.json)
    if answer.status >= 500:  # noqa: PLR2004 - HTTP
        raise TemporaryError(f"{method}: answered {answer.status}", answered=True)
    raise PermanentError(f"{method}: answered {answer.status}")
