"""Slack messages, through an incoming webhook or the Web API.

Slack's SDK builds the requests and ``Sender`` sends them, because the SDK would follow redirects, read
responses without a limit and write secrets to the log. Import this module late: the SDK takes 100 ms, and few
commands need it.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import urllib3
from slack_sdk.errors import SlackApiError, SlackClientError
from slack_sdk.web import WebClient
from slack_sdk.webhook import WebhookClient, WebhookResponse

from engine.model.errors import PermanentError, RefusedError, TemporaryError
from engine.outbound.api import Answer, BlocksRefusedError
from engine.outbound.destination import parse_url
from engine.outbound.masking import MASK
from engine.outbound.retry_after import retry_after

if TYPE_CHECKING:
    from urllib.request import Request as SdkRequest

    from engine.outbound.sender import Sender

_MIN_SECRET = 6
"""Characters; shorter parts of a webhook's path are not masked. The secret part has 24."""
_TEMPORARY_ERRORS = frozenset(
    ("internal_error", "fatal_error", "service_unavailable", "request_timeout", "ratelimited")
)
"""Temporary errors of Slack's Web API, from the lists of errors in its reference."""
_BLOCK_ERRORS = ("invalid_blocks", "invalid_blocks_format", "msg_blocks_too_long")
"""Slack's error codes for blocks that it does not accept."""
_NO_RESPONSE = (
    OSError,
    ValueError,
    urllib3.exceptions.HTTPError,
    SlackClientError,
    RefusedError,
)
# the SDK logs errors together with the webhook's URL, which is secret
_SILENT = logging.Logger("slack", logging.CRITICAL + 1)  # noqa: LOG001 - must not be in the logger tree


class _Webhook(WebhookClient):
    """The SDK's webhook client, with our transport."""

    sender: Sender

    def _perform_http_request_internal(self, url: str, req: SdkRequest) -> WebhookResponse:
        status, headers, body = _send(self.sender, req, self.timeout)
        return WebhookResponse(url=url, status_code=status, body=body, headers=headers)


class _WebApi(WebClient):
    """The SDK's Web API client, with our transport."""

    sender: Sender

    def _perform_urllib_http_request_internal(self, url: str, req: SdkRequest) -> dict[str, Any]:
        del url
        status, headers, body = _send(self.sender, req, self.timeout)
        if not _is_object(body):  # the SDK expects one
            body = '{"ok": false, "error": "a body that is not a JSON object"}'
        return {"status": status, "headers": headers, "body": body}


def post_to_webhook(sender: Sender, url: str, message: dict[str, Any], timeout: float) -> Answer:
    """Post a message to an incoming webhook. Raises TemporaryError, PermanentError, BlocksRefusedError.

    timeout: seconds.
    """
    try:
        # the SDK declares whole seconds, but only passes the value on to us
        webhook = _Webhook(url, timeout=timeout, retry_handlers=[], logger=_SILENT)  # type: ignore[arg-type]
        webhook.sender = sender
        response = webhook.send_dict(message)
    except _NO_RESPONSE as error:  # its text may contain the webhook's path
        raise TemporaryError(f"Slack: {type(error).__name__}") from None
    body = response.body.replace(url, MASK)
    path = urlsplit(url).path
    for secret in (path, *sorted(path.split("/"), key=len, reverse=True)):
        body = body.replace(secret, MASK) if len(secret) >= _MIN_SECRET else body
    return _check_status(response.status_code, body, response.headers)


def post_with_token(
    sender: Sender, login: tuple[str, str], message: dict[str, Any], timeout: float
) -> Answer:
    """Post a message through ``chat.postMessage``. Raises TemporaryError, PermanentError, BlocksRefusedError.

    login: a bot token and the URL of the Web API. timeout: seconds. The answer's JSON has ``ts`` and
    ``channel``.
    """
    posted = call_web_api(sender, login, "chat.postMessage", message, timeout)
    return Answer(200, {"ts": posted.get("ts"), "channel": posted.get("channel")})


def call_web_api(
    sender: Sender, login: tuple[str, str], method: str, body: dict[str, Any], timeout: float
) -> dict[str, Any]:
    """Call a method of the Web API. Return its answer.

    login: a token and the URL of the Web API. timeout: seconds. Raises TemporaryError, PermanentError,
    BlocksRefusedError.
    """
    token, api = login
    client = _WebApi(token, api, timeout=timeout, retry_handlers=[], logger=_SILENT)  # type: ignore[arg-type]
    client.sender = sender
    try:
        answer = client.api_call(method, json=body)
    except SlackApiError as error:
        response = error.response
        if response.status_code < 300:  # noqa: PLR2004 - HTTP
            code = str(response.get("error")).replace(token, MASK)
            if code in _TEMPORARY_ERRORS:
                raise TemporaryError(f"Slack answered {code}", answered=True) from None
            kind = BlocksRefusedError if code in _BLOCK_ERRORS else PermanentError
            raise kind(f"Slack answered {code[:200]}") from None
        _check_status(response.status_code, "", response.headers)
        raise PermanentError(f"Slack answered {response.status_code}") from None
    except _NO_RESPONSE as error:
        raise TemporaryError(f"Slack: {type(error).__name__}") from None
    return answer.data if isinstance(answer.data, dict) else {}


def _send(sender: Sender, request: SdkRequest, timeout: float) -> tuple[int, dict[str, str], str]:
    """Send a request of the SDK; return status, headers and text of the response."""
    headers = dict(request.header_items())
    data = request.data if isinstance(request.data, bytes) else None
    destination = parse_url(request.full_url)
    response = sender.send(destination, request.get_method(), headers, data, timeout)
    return response.status, dict(response.headers), response.body.decode("utf-8", "replace")


def _is_object(body: str) -> bool:
    """Return whether a body is a JSON object."""
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def _check_status(status: int, body: str, headers: dict[str, str]) -> Answer:
    """Return a successful response as an Answer. Raises TemporaryError, PermanentError, BlocksRefusedError."""
    if status in (429, 503):
        raise TemporaryError(f"Slack answered {status}", after=retry_after(headers))
    if status >= 500:  # noqa: PLR2004 - HTTP
        raise TemporaryError(f"Slack answered {status}", answered=True)
    if status >= 300:  # noqa: PLR2004 - HTTP
        if body.strip() in _BLOCK_ERRORS:
            raise BlocksRefusedError(f"Slack answered {body.strip()}")
        raise PermanentError(f"Slack answered {status}: {body[:100]}")
    return Answer(status)
