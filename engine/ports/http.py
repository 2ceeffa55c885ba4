"""The one door to other people's servers: HTTP requests, and Slack through its own SDK.

Every request passes an ``OutsideRecorder``, which shows secrets as ``***``; ``LiveOutside`` sends it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from engine.errors import PermanentError, RefusedError, TemporaryError

if TYPE_CHECKING:
    from pathlib import Path

MASK = "***"
_LONGEST_ANSWER = 1 << 20
_CONNECT = 5.0


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
    ) -> None:
        self._secrets = secrets
        self._timeout = timeout
        self._slack_api = slack_api

    def within(self, seconds: float) -> LiveOutside:
        """The same door, whose calls must be over in so many seconds."""
        return LiveOutside(self._secrets, timeout=seconds, slack_api=self._slack_api)

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str | SecretName],
        body: Any,
    ) -> Answer:
        """Send one request."""
        import urllib3  # noqa: PLC0415 - check and plan don't need it

        host = urlsplit(url).hostname
        opened = {
            k: v if isinstance(v, str) else self._secrets.read(v.name) for k, v in headers.items()
        }
        payload = body if body is None or isinstance(body, str) else json.dumps(body)
        timeout = urllib3.Timeout(connect=min(_CONNECT, self._timeout), total=self._timeout)
        try:
            response = urllib3.request(
                method, url, headers=opened, body=payload and payload.encode(), timeout=timeout,
                retries=False, redirect=False, preload_content=False,
            )  # fmt: skip
            content = response.read(_LONGEST_ANSWER)
            response.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise TemporaryError(f"{host}: {type(error).__name__}") from None
        after = response.headers.get("Retry-After", "")
        if response.status in (429, 503):
            wait = float(after) if after.isdigit() else None
            raise TemporaryError(f"{host} answered {response.status}", after=wait)
        return Answer(response.status, _json(content))

    def slack(
        self, message: dict[str, Any], webhook: SecretName | None, token: SecretName | None
    ) -> Answer:
        """Post a message."""
        from slack_sdk.errors import SlackApiError  # noqa: PLC0415 - 100 ms that few commands need
        from slack_sdk.web import WebClient  # noqa: PLC0415 - the same
        from slack_sdk.webhook import WebhookClient  # noqa: PLC0415 - the same

        timeout = max(1, int(self._timeout))
        try:
            if webhook:
                url = self._secrets.read(webhook.name)
                sent = WebhookClient(url, timeout=timeout, retry_handlers=[]).send_dict(message)
                return _slack_answer(sent.status_code, sent.body, sent.headers)
            opened = self._secrets.read(token.name) if token else ""
            web = WebClient(opened, self._slack_api, timeout=timeout, retry_handlers=[])
            answer = web.chat_postMessage(**message)
            return Answer(200, {"ts": answer.get("ts"), "channel": answer.get("channel")})
        except SlackApiError as error:
            response = error.response
            if response.status_code < 300:  # noqa: PLR2004 - HTTP
                raise PermanentError(f"Slack says {response.get('error')}") from None
            return _slack_answer(response.status_code, "", response.headers)
        except (OSError, ValueError) as error:  # its text may hold the webhook's path
            raise TemporaryError(f"Slack: {type(error).__name__}") from None


def _slack_answer(status: int, body: str, headers: dict[str, str]) -> Answer:
    """The answer of Slack's server. Raises TemporaryError, PermanentError."""
    if status in (429, 503):
        after = {k.lower(): v for k, v in headers.items()}.get("retry-after", "")
        wait = float(after) if str(after).isdigit() else None
        raise TemporaryError(f"Slack answered {status}", after=wait)
    if status >= 500:  # noqa: PLR2004 - HTTP
        raise TemporaryError(f"Slack answered {status}", answered=True)
    if status >= 300:  # noqa: PLR2004 - HTTP
        raise PermanentError(f"Slack answered {status}: {body[:100]}")
    return Answer(status)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
