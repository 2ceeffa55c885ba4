"""http.request: call a webhook, a function or a ticket system."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote, unquote

from engine.actions.composite_parameters import Json, ListOf, MapOf, Record, SecretOr
from engine.actions.parameters import Choice, Integer, Secret, Text, check_header_value
from engine.actions.registry import ActionResult, StepContext, action
from engine.model.calls import SecretName
from engine.model.errors import PermanentError, RefusedError, TemporaryError
from engine.outbound.api import HttpClient, RequestAuth
from engine.outbound.destination import mask_userinfo, parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.language.findings import Findings
    from engine.language.template import Template
    from engine.language.yaml_source import Path

_PLAIN = "".join(set(map(chr, range(0x20, 0x7F))) - {"%"})
_MAX_NOTE = 2000
"""Characters of the header Tiercel-Note. Servers accept about 8,000 characters of headers."""
_START = re.compile(r"https?://(?:[^/?#]|\Z)", re.IGNORECASE)
"""The start of a URL up to its first field. The field can be the host."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
"""The name of a header (RFC 9110, section 5.1)."""
_USERNAME = re.compile(r"[^\x00-\x1f\x7f:]{1,255}")
_AWS_NAME = re.compile(r"[a-z0-9-]{1,63}")
_AUDIENCE = re.compile(r"[!-~]{1,2000}")
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
"""The headers that route and delimit a request. The engine sets them."""


def escape(text: str) -> str:
    """Percent-encode a value from an event, so that it stays in one segment of the URL."""
    return quote(text, safe="")


def check_url(text: str) -> str | None:
    """Return what is wrong with a URL, or None.

    The segments ``.`` and ``..`` are wrong: ``escape`` does not encode them, and they change the path.
    """
    try:
        segments = parse_url(text).target.partition("?")[0].split("/")
    except RefusedError as error:
        return f"is not a valid URL: {error}"
    return "has a segment `.` or `..`" if {".", ".."} & set(map(unquote, segments)) else None


def check_header_name(name: str) -> str | None:
    """Return what is wrong with the name of a header, or None."""
    if not _TOKEN.fullmatch(name):
        return "is not a valid name of a header (letters, digits and -)"
    if name.lower() in _FRAMING:
        return "is a header that the engine sets itself"
    return None


class Url(Text, frozen=True):
    """An http(s) URL. Its scheme must be literal text."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return a Template. A URL without scheme or host is an error."""
        template: Template | None = Text(escape=self.escape).compile(data, path, findings, steps)
        if template is None:
            return None
        fault = None
        if not template.names:
            fault = check_url("".join(map(str, template.parts)))
        elif not _START.match(str(template.parts[0])):
            fault = (
                "is not a valid URL: the URL must begin with http:// or https:// and name a host"
            )
        if fault:
            findings.add(
                path, "bad-value", f"`{mask_userinfo(data)[:80]}` {fault}", "https://HOST/PATH"
            )
        return template


class Headers(MapOf, frozen=True):
    """HTTP headers: name -> value. Names ignore case."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return name -> compiled value. If a name is given twice, the finding is at the second one."""
        compiled = super().compile(data, path, findings, steps)
        seen: set[str] = set()
        for name in compiled or ():
            if name.lower() in seen:
                what = f"the header `{name[:80]}` is given twice; names of headers ignore case"
                findings.add((*path, name), "bad-parameter", what, key=True)
            seen.add(name.lower())
        return compiled


def check_username(text: str) -> str | None:
    """Return what is wrong with the user name of basic authentication (RFC 7617), or None."""
    return (
        None
        if _USERNAME.fullmatch(text)
        else "is not a valid user name (visible characters without `:`)"
    )


def check_aws_name(text: str) -> str | None:
    """Return what is wrong with the name of a region or service of AWS, or None."""
    return (
        None if _AWS_NAME.fullmatch(text) else "is not a valid name of a region or service of AWS"
    )


def check_audience(text: str) -> str | None:
    """Return what is wrong with the audience of an ID token, or None."""
    return (
        None if _AUDIENCE.fullmatch(text) else "is not a valid audience (visible ASCII characters)"
    )


_AUTH = Record(
    {
        "bearer": Record({"token": Secret()}, {"token": "the secret with the token"}),
        "basic": Record(
            {"username": SecretOr(Text(check_username)), "password": Secret()},
            {"username": "text or a secret", "password": "the secret with the password"},
        ),
        "hmac": Record(
            {
                "secret": Secret(),
                "header": Text(check_header_name),
                "algorithm": Choice(("sha256", "sha512", "sha1")),
            },
            {
                "secret": "the secret with the key",
                "header": "the header with ALGORITHM=HEX; default X-Hub-Signature-256. OpenFaaS: Hmac.",
                "algorithm": "the hash; default sha256",
            },
        ),
        "aws": Record(
            {
                "region": Text(check_aws_name),
                "service": Text(check_aws_name),
                "accessKeyId": Secret(),
                "secretAccessKey": Secret(),
                "sessionToken": Secret(),
            },
            {
                "region": "the region; default: that of a function URL",
                "service": "the service in the signature; default lambda",
                "accessKeyId": "the secret with the access key id; default: the identity of the pod",
                "secretAccessKey": "the secret with the secret access key",
                "sessionToken": "the secret with the session token of temporary keys",
            },
        ),
        "google": Record(
            {"audience": Text(check_audience), "key": Secret()},
            {
                "audience": "the audience of the token; default: scheme and host of the URL",
                "key": "the secret with the JSON key of a service account; default: the identity of the pod",
            },
        ),
    },
    {
        "bearer": "a token, for example for Knative or OpenFaaS behind an identity provider",
        "basic": "a user and a password, for example for the gateway of OpenFaaS",
        "hmac": "a signature of the body with a shared key",
        "aws": "a signature of AWS (SigV4), for Lambda function URLs with AWS_IAM",
        "google": "an ID token of a Google service account, for Cloud Run and functions",
    },
)
_NEEDED = {
    "bearer": {"token"},
    "basic": {"username", "password"},
    "hmac": {"secret"},
    "aws": set[str](),
    "google": set[str](),
}


def _check(given: Mapping[str, Any]) -> str | None:
    """Return what is wrong with ``auth``, or None."""
    auth = given.get("auth")
    if not isinstance(auth, dict):
        return None
    if len(auth) != 1:
        return f"`auth` takes exactly one of {', '.join(_NEEDED)}"
    kind, options = next(iter(auth.items()))
    keys = set(options) if isinstance(options, dict) else set()
    missing = _NEEDED.get(kind, set()) - keys
    if missing:
        return f"`auth.{kind}` needs `{min(missing)}`"
    if kind == "aws" and ("accessKeyId" in keys) != ("secretAccessKey" in keys):
        return "`auth.aws` needs `accessKeyId` and `secretAccessKey` together, or none of them"
    if kind == "aws" and "sessionToken" in keys and "accessKeyId" not in keys:
        return "`auth.aws` takes `sessionToken` only with `accessKeyId`"
    header = (
        options.get("header", "X-Hub-Signature-256") if kind == "hmac" and keys else "Authorization"
    )
    headers = given.get("headers")
    names = {str(name).lower() for name in headers} if isinstance(headers, dict) else set()
    if str(header).lower() in names:
        return f"`auth` sets the header {header}; remove it from `headers`"
    return None


@action(
    "http.request",
    effect="notify",
    example={
        "url": "https://tickets.example.com/api/pods/%k8s.pod.name",
        "headers": {"Authorization": {"fromSecret": "tickets-token"}},
        "body": {"title": "%rule", "command": "%proc.cmdline"},
    },
    repeatable=False,
    check=_check,
)
def send_request(  # noqa: PLR0913 - each is a parameter of the action
    http: HttpClient,
    context: StepContext,
    *,
    url: Annotated[str, Url(check_url, escape)],
    method: Literal["POST", "PUT", "PATCH", "GET", "DELETE"] = "POST",
    headers: Annotated[
        dict[str, str | SecretName] | None,
        Headers(SecretOr(Text(check_header_value)), check_header_name),
    ] = None,
    body: Annotated[Any, Json()] = None,
    auth: Annotated[dict[str, Any] | None, _AUTH] = None,
    expect: Annotated[list[int] | None, ListOf(Integer(100, 599))] = None,
    effect: Literal["notify", "disrupt"] = "notify",
) -> ActionResult:
    """Send an HTTP request. The flag --http-hosts must allow its host. Redirects are not followed.

    The header Idempotency-Key contains the run and the step. If the response is JSON of at most 64 KiB, later
    steps can use it: `%steps.NAME.answer.PATH` in templates, and `{step: NAME, jsonPath: …}` in `when`. The
    credentials of the request are masked in it. The variables HTTP_PROXY, HTTPS_PROXY and NO_PROXY apply.

    Link-local addresses and the addresses of metadata servers (169.254.169.254) are refused, unless
    --http-hosts names the address. This also applies to names that resolve to them. With a proxy, only the host
    is checked, because the proxy resolves the name.

    The header Tiercel-Note contains the number of other requests that this one replaces (a digest), and the
    steps that were not run because of `mode: notify`. Characters that are not printable ASCII are
    percent-encoded there.

    url: an http or https URL without a user. Values from the event are percent-encoded.
    method: the HTTP method.
    headers: name -> text or a secret. Names ignore case. The engine sets Host, Content-Length and the other
      headers that route or delimit a request.
    body: text or JSON. Strings in the JSON can have templates.
    auth: credentials to add, for calls of functions (docs/functions.md). It takes exactly one of its keys.
    expect: the statuses that count as success. The default is 200 to 299.
    effect: set this to disrupt if the guardrails must apply to the request. The target of the step is then the
      pod of the event. The pod is found and verified. Protected targets, maxEventAge and budgets apply.
    """
    del effect
    defaults: dict[str, str | SecretName] = {"Idempotency-Key": f"{context.run}/{context.step}"}
    if context.note:
        defaults["Tiercel-Note"] = quote(context.note.replace("\n", "; "), safe=_PLAIN)[:_MAX_NOTE]
    if body is not None and not isinstance(body, str):
        defaults["Content-Type"] = "application/json"
    given = headers or {}
    names = {name.lower() for name in given}
    own = {name: value for name, value in defaults.items() if name.lower() not in names}
    credentials = RequestAuth(*next(iter(auth.items()))) if auth else None
    answer = http.request(method, url, own | given, body, credentials)
    if answer.status is None:
        return ActionResult(f"{method} {url[:200]}")
    if answer.status in expect if expect else 200 <= answer.status < 300:  # noqa: PLR2004 - HTTP
        return ActionResult(f"{method} {url[:200]}: {answer.status}", answer.json)
    if answer.status >= 500:  # noqa: PLR2004 - HTTP
        raise TemporaryError(f"{method}: answered {answer.status}", answered=True)
    redirect = 300 <= answer.status < 400  # noqa: PLR2004 - HTTP
    raise PermanentError(
        f"{method}: answered {answer.status}{', and redirects are not followed' if redirect else ''}"
    )
