"""API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from engine.model.calls import OutboundRequest, SecretName
from engine.model.errors import PermanentError
from engine.outbound.destination import check_host, parse_url
from engine.outbound.masking import MASK


@dataclass(frozen=True, slots=True)
class Answer:
    """The status, and the body if it is JSON. In previews the status is None, because nothing was sent."""

    status: int | None
    json: Any = None


class BlocksRefusedError(PermanentError):
    """Slack does not accept the blocks of a message; it may accept the text."""


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

    def post_slack_message(
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
        check_host(parse_url(url), self._hosts)
        shown = {k: v if isinstance(v, str) else MASK for k, v in headers.items()}
        self.requests.append(OutboundRequest(method, url, body, shown))
        return self._forward.request(method, url, headers, body) if self._forward else Answer(None)

    def post_slack_message(
        self, message: dict[str, Any], webhook: SecretName | None, token: SecretName | None
    ) -> Answer:
        """Record the message, and pass it on."""
        url = MASK if webhook else "https://slack.com/api/chat.postMessage"
        self.requests.append(OutboundRequest("POST", url, message))
        return (
            self._forward.post_slack_message(message, webhook, token)
            if self._forward
            else Answer(None)
        )
