"""Slack through its own SDK, kept from what it does by itself: follow redirects, and log secrets.

Imported late: the SDK takes 100 ms, and few commands need it.
"""

from __future__ import annotations

import http.client
import logging
import time
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web import WebClient
from slack_sdk.webhook import WebhookClient, WebhookResponse

from engine.errors import PermanentError, TemporaryError
from engine.ports.deadline import CONNECT, Response, dial, left
from engine.ports.http import MASK, Answer, asked_to_wait

if TYPE_CHECKING:
    import socket
    from urllib.request import Request

_LONGEST_ANSWER = 1 << 20
_SHORT = 6
"""Letters of a webhook's path that are looked for in an answer; its secret part has 24."""
_TROUBLE = (OSError, ValueError, http.client.HTTPException, SlackClientError)
# the SDK logs errors with the webhook's URL in them, which is the secret
_SILENT = logging.Logger("slack", logging.CRITICAL + 1)  # noqa: LOG001 - no logger of the tree's


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would follow with a GET, and carry the token to wherever it was sent."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none: the 3xx is the answer."""


class _Plain(http.client.HTTPConnection):
    """A connection whose time-out is that of the whole request."""

    response_class = Response

    def connect(self) -> None:
        """Connect, at what is then the beginning of the request's time."""
        self._until = time.monotonic() + (self.timeout or CONNECT)
        self._create_connection = self._dial  # what http.client's own calls
        super().connect()

    def _dial(self, address: tuple[str, int], *_: Any) -> socket.socket:
        return dial(address, min(CONNECT, left(self._until)))

    def getresponse(self) -> http.client.HTTPResponse:
        self.sock.settimeout(left(self._until))
        return super().getresponse()


class _Tls(http.client.HTTPSConnection, _Plain):
    """The same over TLS."""


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: Request) -> http.client.HTTPResponse:
        return self.do_open(_Plain, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: Request) -> http.client.HTTPResponse:
        return self.do_open(_Tls, req)


_open = urllib.request.build_opener(_NoRedirect(), _Http(), _Https()).open


class _Webhook(WebhookClient):
    def _perform_http_request_internal(self, url: str, req: Request) -> WebhookResponse:
        status, headers, body = _answer(req, self.timeout)
        return WebhookResponse(url=url, status_code=status, body=body, headers=headers)


class _Web(WebClient):
    def _perform_urllib_http_request_internal(self, url: str, req: Request) -> dict[str, Any]:
        del url
        status, headers, body = _answer(req, self.timeout)
        return {"status": status, "headers": headers, "body": body}


def post_to_webhook(url: str, message: dict[str, Any], timeout: float) -> Answer:
    """Post to an incoming webhook. Raises TemporaryError, PermanentError."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError
        # the SDK wants whole seconds, and only hands them on to us
        webhook = _Webhook(url, timeout=timeout, retry_handlers=[], logger=_SILENT)  # type: ignore[arg-type]
        sent = webhook.send_dict(message)
    except _TROUBLE as error:  # its text may hold the webhook's path
        raise TemporaryError(f"Slack: {type(error).__name__}") from None
    said = sent.body.replace(url, MASK)
    for secret in (parts.path, *sorted(parts.path.split("/"), key=len, reverse=True)):
        said = said.replace(secret, MASK) if len(secret) >= _SHORT else said
    return _checked(sent.status_code, said, sent.headers)


def post_with_token(token: str, api: str, message: dict[str, Any], timeout: float) -> Answer:
    """Post through ``chat.postMessage``. Raises TemporaryError, PermanentError."""
    web = _Web(token, api, timeout=timeout, retry_handlers=[], logger=_SILENT)  # type: ignore[arg-type]
    try:
        answer = web.chat_postMessage(**message)
    except SlackApiError as error:
        response = error.response
        if response.status_code < 300:  # noqa: PLR2004 - HTTP
            said = str(response.get("error")).replace(token, MASK) if token else "no token"
            raise PermanentError(f"Slack says {said[:200]}") from None
        return _checked(response.status_code, "", response.headers)
    except _TROUBLE as error:
        raise TemporaryError(f"Slack: {type(error).__name__}") from None
    return Answer(200, {"ts": answer.get("ts"), "channel": answer.get("channel")})


def _answer(request: Request, timeout: float) -> tuple[int, dict[str, str], str]:
    with _open(request, timeout=timeout) as response:
        body = response.read(_LONGEST_ANSWER).decode("utf-8", "replace")
        return response.status, dict(response.headers), body


def _checked(status: int, body: str, headers: dict[str, str]) -> Answer:
    """The answer of Slack's server. Raises TemporaryError, PermanentError."""
    if status in (429, 503):
        raise TemporaryError(f"Slack answered {status}", after=asked_to_wait(headers))
    if status >= 500:  # noqa: PLR2004 - HTTP
        raise TemporaryError(f"Slack answered {status}", answered=True)
    if status >= 300:  # noqa: PLR2004 - HTTP
        raise PermanentError(f"Slack answered {status}: {body[:100]}")
    return Answer(status)
