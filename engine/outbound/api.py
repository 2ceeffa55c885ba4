"""The HTTP interface that actions use: ``HttpClient``, and a recorder of requests.

Every request passes a ``RequestRecorder``, which replaces secrets with ``***``. ``LiveHttpClient`` (in
``client``) sends it. Previews only record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from engine.model.calls import OutboundRequest, SecretName
from engine.model.errors import PermanentError
from engine.outbound.destination import check_host, parse_url
from engine.outbound.masking import MASK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Answer(msgspec.Struct, frozen=True):
    """The part of a response that a step keeps for later steps.

    status: the HTTP status; None in a preview, which sends nothing. json: the body; None if it is not JSON.
    """

    status: int | None
    json: Any = None


class RequestAuth(msgspec.Struct, frozen=True):
    """The credentials of a request.

    kind: bearer, basic, hmac, aws or google. options: as in the parameter ``auth`` of http.request, with
    secrets by their names.
    """

    kind: str
    options: Mapping[str, str | SecretName]

    @property
    def header(self) -> str:
        """The name of the header with the credentials."""
        return (
            str(self.options.get("header", "X-Hub-Signature-256"))
            if self.kind == "hmac"
            else "Authorization"
        )


class BlocksRefusedError(PermanentError):
    """Slack rejected the blocks of a message. It may accept the same message as text."""


class HttpClient(Protocol):
    """Sends the HTTP requests of actions."""

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str | SecretName],
        body: Any,
        auth: RequestAuth | None = None,
    ) -> Answer:
        """Send one request. Redirects are not followed.

        body: text, or a value that is sent as JSON. auth: credentials to add.

        Raises RefusedError if the host is not allowed, TemporaryError if there is no usable response.
        """
        ...

    def post_slack_message(
        self, message: dict[str, Any], webhook: SecretName | None, token: SecretName | None
    ) -> Answer:
        """Post a message to Slack: to an incoming webhook, or with a bot token through ``chat.postMessage``.

        Raises TemporaryError, PermanentError, BlocksRefusedError.
        """
        ...

    def send_notification(self, to: SecretName, title: str, body: str) -> Answer:
        """Send a message through the service of an Apprise URL. title, body: plain text.

        Raises TemporaryError, PermanentError, RefusedError.
        """
        ...


class RequestRecorder:
    """Records each request without secret values, then forwards it if there is a client to forward to.

    hosts: the hosts that ``request`` may call (see ``check_host``). check: called before each request; raises
    TemporaryError to prevent it.
    """

    def __init__(
        self,
        forward: HttpClient | None = None,
        hosts: frozenset[str] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._forward, self._check = forward, check
        self._hosts = hosts
        self.requests: list[OutboundRequest] = []

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str | SecretName],
        body: Any,
        auth: RequestAuth | None = None,
    ) -> Answer:
        """Record and forward a request. Raises RefusedError if ``--http-hosts`` does not list its host."""
        check_host(parse_url(url), self._hosts)
        self._check()
        masked_headers = {k: v if isinstance(v, str) else MASK for k, v in headers.items()}
        if auth is not None:
            masked_headers[auth.header] = MASK
        self.requests.append(OutboundRequest(method, url, body, masked_headers))
        if self._forward is None:
            return Answer(None)
        return self._forward.request(method, url, headers, body, auth)

    def post_slack_message(
        self, message: dict[str, Any], webhook: SecretName | None, token: SecretName | None
    ) -> Answer:
        """Record and forward a Slack message."""
        self._check()
        url = MASK if webhook else "https://slack.com/api/chat.postMessage"
        self.requests.append(OutboundRequest("POST", url, message))
        if self._forward is None:
            return Answer(None)
        return self._forward.post_slack_message(message, webhook, token)

    def send_notification(self, to: SecretName, title: str, body: str) -> Answer:
        """Record and forward a message."""
        self._check()
        self.requests.append(OutboundRequest("POST", MASK, {"title": title, "body": body}))
        if self._forward is None:
            return Answer(None)
        return self._forward.send_notification(to, title, body)
