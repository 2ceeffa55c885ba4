"""The client that sends the HTTP requests and Slack messages of steps.

The HTTP libraries are imported at the first request, because the engine's main process, ``check`` and ``plan``
import this module but send nothing.
"""

from __future__ import annotations

import functools
import json
import time
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
    from engine.outbound.api import RequestAuth
    from engine.outbound.cloud_identity import CloudIdentity
    from engine.outbound.request_auth import Authorizer
    from engine.outbound.secrets import Secrets
    from engine.outbound.sender import Response, Sender


class LiveHttpClient:
    """Sends requests. Error messages contain no URL and no header, because both may be secret.

    timeout: seconds for each request. slack_api: the URL of Slack's Web API. hosts, senders: shared by all
    copies that ``with_timeout`` makes.
    """

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
        """Return the same client with another timeout."""
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
        auth: RequestAuth | None = None,
    ) -> Answer:
        """Send one request; see ``HttpClient.request``."""
        import urllib3  # noqa: PLC0415 - see the module's docstring

        from engine.outbound.connections import seconds_left  # noqa: PLC0415 - the same

        destination = parse_url(url)
        secrets = {
            k: self._secrets.read(v.name) for k, v in headers.items() if isinstance(v, SecretName)
        }
        sent_headers = {k: v for k, v in headers.items() if isinstance(v, str)} | secrets
        text = body if body is None or isinstance(body, str) else json.dumps(body)
        content = None if text is None else text.encode("utf-8", "replace")
        known = list(secrets.values())
        deadline = time.monotonic() + self._timeout
        try:
            with self._hosts.slot(destination.host):
                if auth is not None:
                    request = (method, destination, sent_headers, content or b"")
                    added, more = self._authorizer().headers(auth, request, deadline)
                    sent_headers, known = sent_headers | added, [*known, *more]
                response = self._senders.requests.send(
                    destination, method, sent_headers, content, seconds_left(deadline)
                )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise TemporaryError(f"{destination.host}: {type(error).__name__}") from None
        if response.status in (429, 503):
            raise TemporaryError(
                f"{destination.host} answered {response.status}",
                after=retry_after(response.headers),
            )
        return Answer(response.status, mask_secrets(_json(response), known))

    def _authorizer(self) -> Authorizer:
        from engine.outbound.request_auth import Authorizer  # noqa: PLC0415 - few playbooks need it

        return Authorizer(self._secrets, lambda: self._senders.identity)

    def post_slack_message(
        self, message: dict[str, Any], webhook: SecretName | None, token: SecretName | None
    ) -> Answer:
        """Post a message to Slack; see ``HttpClient.post_slack_message``."""
        from engine.outbound import slack  # noqa: PLC0415 - takes 100 ms, and few commands need it

        sender = self._senders.messages
        if webhook:
            url = self._secrets.read(webhook.name)
            with self._hosts.slot("Slack"):
                return slack.post_to_webhook(sender, url, message, self._timeout)
        token_text = self._secrets.read(token.name) if token else ""
        with self._hosts.slot("Slack"):
            return slack.post_with_token(
                sender, (token_text, self._slack_api), message, self._timeout
            )

    def send_notification(self, to: SecretName, title: str, body: str) -> Answer:
        """Send a message through Apprise; see ``HttpClient.send_notification``."""
        from engine.outbound.notification import (  # noqa: PLC0415 - loads Apprise, and few playbooks need it
            send_notification,
        )
        from engine.outbound.notification_services import scheme_of  # noqa: PLC0415 - the same

        url = self._secrets.read(to.name)
        with self._hosts.slot(scheme_of(url)):
            send_notification(
                self._senders.requests,
                url,
                (title, body),
                self._timeout,
                self._senders.check_address,
            )
        return Answer(None)


class Senders:
    """The two senders: ``requests`` for http.request and notify.send, ``messages`` for Slack.

    Each is made at first use.

    http_hosts: the hosts of ``--http-hosts``. ``requests`` connects to a link-local address or to a metadata
    server only if this list contains the address. The list does not apply to ``messages``.
    """

    def __init__(self, http_hosts: frozenset[str] = frozenset()) -> None:
        self.check_address = address_check(http_hosts)

    @functools.cached_property
    def requests(self) -> Sender:
        """The sender of http.request and notify.send."""
        from engine.outbound.sender import Sender  # noqa: PLC0415 - see the module's docstring

        return Sender(self.check_address)

    @functools.cached_property
    def identity(self) -> CloudIdentity:
        """The identity of the pod at AWS and Google Cloud."""
        from engine.outbound.cloud_identity import CloudIdentity  # noqa: PLC0415 - few playbooks need it
        from engine.outbound.sender import Sender  # noqa: PLC0415 - see the module's docstring

        return CloudIdentity(Sender(use_proxy=False), self.requests)

    @functools.cached_property
    def messages(self) -> Sender:
        """The sender of Slack messages."""
        from engine.outbound.sender import Sender  # noqa: PLC0415 - see the module's docstring

        return Sender()


def _json(response: Response) -> Any:
    """Return the body as JSON; None if it was truncated, or is not JSON that the journal can store."""
    if response.truncated:
        return None
    try:
        return msgspec.json.decode(response.body)
    except (ValueError, RecursionError):
        return None
