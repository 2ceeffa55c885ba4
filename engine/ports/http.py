"""The one door to other people's servers: HTTP requests, and Slack through its own SDK.

Every request passes an ``OutsideRecorder``, which shows secrets as ``***``; ``LiveOutside`` sends it.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from engine.errors import RefusedError, TemporaryError
from engine.ports.hosts import Hosts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    import urllib3

MASK = "***"
_LONGEST_ANSWER = 1 << 20
_SHORT = 6
"""Letters that a part of a secret has at least to be looked for; `Bearer` is found, and nobody's loss."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to somebody else's server, with secrets masked as ``***``; body is text or JSON."""

    method: str
    url: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the status, and the body's JSON where it is some."""

    status: int
    json: Any = None


@dataclass(frozen=True, slots=True)
class SecretName:
    """The name of a secret; its value is read at the time of use."""

    name: str


class Secrets:
    """Reads secrets from a folder, each a file, at the time of use."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, name: str) -> str:
        """The secret without its trailing newline. Raises TemporaryError where it is missing."""
        if self._folder is None:
            raise TemporaryError(f"secret {name}: no --secrets-dir is set", answered=True)
        try:
            return (self._folder / name).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise TemporaryError(f"secret {name}: {type(error).__name__}", answered=True) from None


class Outside(Protocol):
    """What an action may use of the world outside the cluster."""

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str | SecretName],
        body: Any,
    ) -> Answer:
        """Send one request, following no redirect.

        Raises RefusedError where the host is not allowed, TemporaryError where there is no usable answer.
        """
        ...

    def slack(
        self, message: dict[str, Any], webhook: SecretName | None, token: SecretName | None
    ) -> Answer:
        """Post a message to a webhook, or with a token through ``chat.postMessage``."""
        ...


def allowed_host(url: str, hosts: frozenset[str] | None) -> str:
    """The host of an http(s) URL, where it may be called. Raises RefusedError.

    hosts: names, ``host:port`` or ``*.suffix``; None allows every host.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise RefusedError("the URL is none") from None
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc:
        raise RefusedError("the URL must be http(s)://host/… without a user")
    if not all("!" <= letter <= "~" for letter in url):
        raise RefusedError("the URL has characters that must be escaped")
    wild = f"*.{host.partition('.')[2]}"
    if hosts is not None and not hosts & {host, f"{host}:{port}", wild}:
        raise RefusedError(f"{host} is not on --http-hosts")
    return host


class OutsideRecorder:
    """Records every request, secrets unopened, and passes it on only where it is told to."""

    def __init__(self, forward: Outside | None = None, hosts: frozenset[str] | None = None) -> None:
        self._forward = forward
        self._hosts = hosts
        self.requests: list[Request] = []

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str | SecretName],
        body: Any,
    ) -> Answer:
        """Record the request, and pass it on."""
        allowed_host(url, self._hosts)
        shown = {k: v if isinstance(v, str) else MASK for k, v in headers.items()}
        self.requests.append(Request(method, url, body, shown))
        return self._forward.request(method, url, headers, body) if self._forward else Answer(200)

    def slack(
        self, message: dict[str, Any], webhook: SecretName | None, token: SecretName | None
    ) -> Answer:
        """Record the message, and pass it on."""
        url = MASK if webhook else "https://slack.com/api/chat.postMessage"
        self.requests.append(Request("POST", url, message))
        return self._forward.slack(message, webhook, token) if self._forward else Answer(200)


class LiveOutside:
    """Sends. Errors never carry a URL or a header, which may be secret."""

    def __init__(
        self,
        secrets: Secrets,
        *,
        timeout: float = 30.0,
        slack_api: str = "https://slack.com/api/",
        hosts: Hosts | None = None,
        pools: urllib3.PoolManager | None = None,
    ) -> None:
        import urllib3  # noqa: PLC0415 - check and plan don't need it

        from engine.ports.deadline import bounded  # noqa: PLC0415 - the same

        self._pools = pools or bounded(urllib3.PoolManager())
        self._secrets = secrets
        self._timeout = timeout
        self._slack_api = slack_api
        self._hosts = hosts or Hosts()

    def within(self, seconds: float) -> LiveOutside:
        """The same door, whose calls must be over in so many seconds."""
        return LiveOutside(
            self._secrets, timeout=seconds, slack_api=self._slack_api, hosts=self._hosts,
            pools=self._pools,
        )  # fmt: skip

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str | SecretName],
        body: Any,
    ) -> Answer:
        """Send one request."""
        import urllib3  # noqa: PLC0415 - check and plan don't need it

        from engine.ports.deadline import CONNECT  # noqa: PLC0415 - the same

        host = urlsplit(url).hostname
        secrets = {
            k: self._secrets.read(v.name) for k, v in headers.items() if isinstance(v, SecretName)
        }
        opened = {k: v for k, v in headers.items() if isinstance(v, str)} | secrets
        payload = body if body is None or isinstance(body, str) else json.dumps(body)
        timeout = urllib3.Timeout(connect=min(CONNECT, self._timeout), total=self._timeout)
        try:
            with self._hosts.one(host or ""):
                response = self._pools.request(
                    method, url, headers=opened, body=payload and payload.encode(), timeout=timeout,
                    retries=False, redirect=False, preload_content=False,
                )  # fmt: skip
                with contextlib.closing(response):
                    content = _read(response)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise TemporaryError(f"{host}: {type(error).__name__}") from None
        if response.status in (429, 503):
            wait = asked_to_wait(response.headers)
            raise TemporaryError(f"{host} answered {response.status}", after=wait)
        return Answer(response.status, masked(_json(content), secrets.values()))

    def slack(
        self, message: dict[str, Any], webhook: SecretName | None, token: SecretName | None
    ) -> Answer:
        """Post a message."""
        from engine.ports import slack  # noqa: PLC0415 - 100 ms that few commands need

        if webhook:
            url = self._secrets.read(webhook.name)
            with self._hosts.one("Slack"):
                return slack.post_to_webhook(url, message, self._timeout)
        opened = self._secrets.read(token.name) if token else ""
        with self._hosts.one("Slack"):
            return slack.post_with_token(opened, self._slack_api, message, self._timeout)


def _read(response: urllib3.BaseHTTPResponse) -> bytes:
    """The body, cut at the longest."""
    parts: list[bytes] = []
    size = 0
    while size < _LONGEST_ANSWER and (part := response.read1(_LONGEST_ANSWER - size)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def asked_to_wait(headers: Mapping[str, str] | None) -> float | None:
    """Seconds that an answer asks us to wait: its Retry-After, a number or a date (RFC 9110, 10.2.3); or None.

    A date is counted from the answer's own, since the other side's clock may be another than ours.
    """
    told = {name.lower(): value for name, value in (headers or {}).items()}
    value = told.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    try:
        sent = parsedate_to_datetime(told.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        sent = time.time()
    return max(0.0, until - sent)


def masked(value: Any, secrets: Collection[str]) -> Any:
    """JSON without secrets, which a server may say again: it is kept, shown, and asked by later steps."""
    said = {part for secret in secrets for part in (secret, *secret.split()) if len(part) >= _SHORT}
    if not said:
        return value
    try:
        text = json.dumps(value, ensure_ascii=False)
        for secret in sorted(said, key=len, reverse=True):
            text = text.replace(json.dumps(secret, ensure_ascii=False)[1:-1], MASK)
        return json.loads(text)
    except RecursionError:
        return None


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
