"""The one door to other people's servers: HTTP requests, and Slack through its own SDK.

Every request passes an ``OutsideRecorder``, which shows secrets as ``***``; ``LiveOutside`` sends it.
"""

from __future__ import annotations

import functools
import json
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from engine.model.calls import OutboundRequest, SecretName
from engine.model.errors import PermanentError, TemporaryError
from engine.outbound.destination import address_check, check_host, destination_of
from engine.outbound.host_limits import HostLimits

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from engine.outbound.sender import Reply, Sender

MASK = "***"
_LONGEST_SECRET = 64 << 10
"""Bytes of the file of a secret."""
_SHORT = 6
"""Letters that a part of a secret has at least to be looked for; `Bearer` is found, and nobody's loss."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The status, and the body if it is JSON. In previews the status is None, because nothing was sent."""

    status: int | None
    json: Any = None


class BlocksRefusedError(PermanentError):
    """Slack does not accept the blocks of a message; it may accept the text."""


class Secrets:
    """Reads secrets from a folder, each a file, at the time of use."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, name: str) -> str:
        """The secret without its trailing newline.

        Raises TemporaryError if it is missing or empty, and PermanentError if its text cannot be a header or a
        URL (a blank line, a byte order mark); both name the secret and never repeat its value.
        """
        if self._folder is None:
            raise TemporaryError(f"secret {name}: no --secrets-dir is set", answered=True)
        try:
            with (self._folder / name).open("rb") as file:
                content = file.read(_LONGEST_SECRET + 1)
        except OSError as error:
            raise TemporaryError(f"secret {name}: {type(error).__name__}", answered=True) from None
        fault = _secret_fault(content)
        if fault:
            raise PermanentError(f"secret {name}: {fault}")
        text = content.decode("ascii").removesuffix("\n").removesuffix("\r")
        if not text:
            raise TemporaryError(f"secret {name}: the file is empty", answered=True)
        return text


def _secret_fault(content: bytes) -> str | None:
    """Why the content of a file cannot be a secret; None if it can."""
    if len(content) > _LONGEST_SECRET:
        return f"the file is larger than {_LONGEST_SECRET >> 10} KiB"
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return "the file begins with a byte order mark; save it as UTF-8 without one"
    line = content.removesuffix(b"\n").removesuffix(b"\r")
    if b"\n" in line or b"\r" in line:
        return "the file has more than one line, or a blank line"
    if not all(byte == 0x09 or 0x20 <= byte <= 0x7E for byte in line):  # noqa: PLR2004 - tab, visible ASCII
        return "the file has characters that are not visible ASCII"
    return None


class HttpClient(Protocol):
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


class RequestRecorder:
    """Records every request, secrets unopened, and passes it on if there is something to pass it on to.

    hosts: that ``request`` may call (see ``check_host``).
    """

    def __init__(
        self, forward: HttpClient | None = None, hosts: frozenset[str] | None = None
    ) -> None:
        self._forward = forward
        self._hosts = hosts
        self.requests: list[OutboundRequest] = []

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str | SecretName],
        body: Any,
    ) -> Answer:
        """Record the request, and pass it on. Raises RefusedError if --http-hosts does not name its host."""
        check_host(destination_of(url), self._hosts)
        shown = {k: v if isinstance(v, str) else MASK for k, v in headers.items()}
        self.requests.append(OutboundRequest(method, url, body, shown))
        return self._forward.request(method, url, headers, body) if self._forward else Answer(None)

    def slack(
        self, message: dict[str, Any], webhook: SecretName | None, token: SecretName | None
    ) -> Answer:
        """Record the message, and pass it on."""
        url = MASK if webhook else "https://slack.com/api/chat.postMessage"
        self.requests.append(OutboundRequest("POST", url, message))
        return self._forward.slack(message, webhook, token) if self._forward else Answer(None)


class LiveHttpClient:
    """Sends. Errors never carry a URL or a header, which may be secret."""

    def __init__(
        self,
        secrets: Secrets,
        *,
        timeout: float = 30.0,
        slack_api: str = "https://slack.com/api/",
        hosts: HostLimits | None = None,
        senders: Senders | None = None,
    ) -> None:
        self._secrets = secrets
        self._timeout = timeout
        self._slack_api = slack_api
        self._hosts = hosts or HostLimits()
        self._senders = senders or Senders()

    def within(self, seconds: float) -> LiveHttpClient:
        """The same door, whose calls must be over in so many seconds."""
        return LiveHttpClient(
            self._secrets, timeout=seconds, slack_api=self._slack_api, hosts=self._hosts,
            senders=self._senders,
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

        place = destination_of(url)
        secrets = {
            k: self._secrets.read(v.name) for k, v in headers.items() if isinstance(v, SecretName)
        }
        opened = {k: v for k, v in headers.items() if isinstance(v, str)} | secrets
        payload = body if body is None or isinstance(body, str) else json.dumps(body)
        content = None if payload is None else payload.encode("utf-8", "replace")
        try:
            with self._hosts.one(place.host):
                reply = self._senders.requests.send(place, method, opened, content, self._timeout)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise TemporaryError(f"{place.host}: {type(error).__name__}") from None
        if reply.status in (429, 503):
            wait = asked_to_wait(reply.headers)
            raise TemporaryError(f"{place.host} answered {reply.status}", after=wait)
        return Answer(reply.status, masked(_json(reply), secrets.values()))

    def slack(
        self, message: dict[str, Any], webhook: SecretName | None, token: SecretName | None
    ) -> Answer:
        """Post a message."""
        from engine.outbound import slack  # noqa: PLC0415 - 100 ms that few commands need

        sender = self._senders.messages
        if webhook:
            url = self._secrets.read(webhook.name)
            with self._hosts.one("Slack"):
                return slack.post_to_webhook(sender, url, message, self._timeout)
        opened = self._secrets.read(token.name) if token else ""
        with self._hosts.one("Slack"):
            return slack.post_with_token(sender, (opened, self._slack_api), message, self._timeout)


class Senders:
    """The sender of http.request and the sender of notifications, each made at its first use.

    http_hosts: the list of ``--http-hosts``. A request goes to an address that is link-local or a metadata
    server's only if the list names the address. The list does not concern notifications.
    """

    def __init__(self, http_hosts: frozenset[str] = frozenset()) -> None:
        self._http_hosts = http_hosts

    @functools.cached_property
    def requests(self) -> Sender:
        """For http.request."""
        from engine.outbound.sender import Sender  # noqa: PLC0415 - check and plan don't need it

        return Sender(address_check(self._http_hosts))

    @functools.cached_property
    def messages(self) -> Sender:
        """For notifications."""
        from engine.outbound.sender import Sender  # noqa: PLC0415 - the same

        return Sender()


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


def _json(reply: Reply) -> Any:
    """The JSON of a whole answer; None if it was cut, or is not JSON that the journal can keep."""
    if reply.cut:
        return None
    try:
        return msgspec.json.decode(reply.body)
    except (ValueError, RecursionError):
        return None
