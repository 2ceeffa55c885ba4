"""Client."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import msgspec

from engine.model.calls import SecretName
from engine.model.errors import TemporaryError
from engine.outbound.api import Answer
from engine.outbound.destination import address_check, parse_url
from engine.outbound.host_limits import HostLimits
from engine.outbound.masking import mask_secrets
from engine.outbound.retry_after import retry_after

if TYPE_CHECKING:
    from engine.outbound.secrets import Secrets
    from engine.outbound.sender import Reply, Sender


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

    def with_timeout(self, seconds: float) -> LiveHttpClient:
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

        place = parse_url(url)
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
            wait = retry_after(reply.headers)
            raise TemporaryError(f"{place.host} answered {reply.status}", after=wait)
        return Answer(reply.status, mask_secrets(_json(reply), secrets.values()))

    def post_slack_message(
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


def _json(reply: Reply) -> Any:
    """The JSON of a whole answer; None if it was cut, or is not JSON that the journal can keep."""
    if reply.cut:
        return None
    try:
        return msgspec.json.decode(reply.body)
    except (ValueError, RecursionError):
        return None
