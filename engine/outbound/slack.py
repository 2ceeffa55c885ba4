"""Slack through its own SDK, which builds the requests; ``Sender`` sends them.

The SDK itself would follow redirects, read answers without a limit and log secrets. Imported late: the SDK takes
100 ms, and few commands need it.
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
    from urllib.request import Request

    from engine.outbound.sender import Sender

_SHORT = 6
"""Letters of a webhook's path that are looked for in an answer; its secret part has 24."""
_BLOCKS = ("invalid_blocks", "invalid_blocks_format", "msg_blocks_too_long")
"""What Slack answers if it does not accept the blocks of a message."""
_TROUBLE = (OSError, ValueError, urllib3.exceptions.HTTPError, SlackClientError, RefusedError)
# the SDK logs errors with the webhook's URL in them, which is the secret
_SILENT = logging.Logger("slack", logging.CRITICAL + 1)  # noqa: LOG001 - no logger of the tree's


class _Webhook(WebhookClient):
    sender: Sender

    def _perform_http_request_internal(self, url: str, req: Request) -> WebhookResponse:
        status, headers, body = _answer(self.sender, req, self.timeout)
        return WebhookResponse(url=url, status_code=status, body=body, headers=headers)


class _Web(WebClient):
    sender: Sender

    def _perform_urllib_http_request_internal(self, url: str, req: Request) -> dict[str, Any]:
        del url
        status, headers, body = _answer(self.sender, req, self.timeout)
        if not _is_object(body):  # the SDK expects one
            body = '{"ok": false, "error": "with something that is not a JSON object"}'
        return {"status": status, "headers": headers, "body": body}


def post_to_webhook(sender: Sender, url: str, message: dict[str, Any], timeout: float) -> Answer:
    """Post to an incoming webhook. Raises TemporaryError, PermanentError, BlocksRefusedError."""
    try:
        # the SDK wants whole seconds, and only hands them on to us
        webhook = _Webhook(url, timeout=timeout, retry_handlers=[], logger=_SILENT)  # type: ignore[arg-type]
        webhook.sender = sender
        sent = webhook.send_dict(message)
    except _TROUBLE as error:  # its text may hold the webhook's path
        raise TemporaryError(f"Slack: {type(error).__name__}") from None
    said = sent.body.replace(url, MASK)
    path = urlsplit(url).path
    for secret in (path, *sorted(path.split("/"), key=len, reverse=True)):
        said = said.replace(secret, MASK) if len(secret) >= _SHORT else said
    return _checked(sent.status_code, said, sent.headers)


def post_with_token(
    sender: Sender, login: tuple[str, str], message: dict[str, Any], timeout: float
) -> Answer:
    """Post through ``chat.postMessage``. Raises TemporaryError, PermanentError, BlocksRefusedError.

    login: a token and the URL of the API.
    """
    token, api = login
    web = _Web(token, api, timeout=timeout, retry_handlers=[], logger=_SILENT)  # type: ignore[arg-type]
    web.sender = sender
    try:
        answer = web.chat_postMessage(**message)
    except SlackApiError as error:
        response = error.response
        if response.status_code < 300:  # noqa: PLR2004 - HTTP
            said = str(response.get("error")).replace(token, MASK)
            kind = BlocksRefusedError if said in _BLOCKS else PermanentError
            raise kind(f"Slack answered {said[:200]}") from None
        return _checked(response.status_code, "", response.headers)
    except _TROUBLE as error:
        raise TemporaryError(f"Slack: {type(error).__name__}") from None
    return Answer(200, {"ts": answer.get("ts"), "channel": answer.get("channel")})


def _answer(sender: Sender, request: Request, timeout: float) -> tuple[int, dict[str, str], str]:
    """Send a request of the SDK: status, headers and text of the answer."""
    headers = dict(request.header_items())
    data = request.data if isinstance(request.data, bytes) else None
    place = parse_url(request.full_url)
    reply = sender.send(place, request.get_method(), headers, data, timeout)
    return reply.status, dict(reply.headers), reply.body.decode("utf-8", "replace")


def _is_object(body: str) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def _checked(status: int, body: str, headers: dict[str, str]) -> Answer:
    """The answer of Slack's server. Raises TemporaryError, PermanentError."""
    if status in (429, 503):
        raise TemporaryError(f"Slack answered {status}", after=retry_after(headers))
    if status >= 500:  # noqa: PLR2004 - HTTP
        raise TemporaryError(f"Slack answered {status}", answered=True)
    if status >= 300:  # noqa: PLR2004 - HTTP
        if body.strip() in _BLOCKS:
            raise BlocksRefusedError(f"Slack answered {body.strip()}")
        raise PermanentError(f"Slack answered {status}: {body[:100]}")
    return Answer(status)
