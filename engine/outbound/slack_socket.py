"""Socket Mode: the engine opens a WebSocket to Slack, and Slack sends what people press. No inbound traffic.

``apps.connections.open`` returns the URL of a connection. Slack sends ``hello``, then envelopes, each of which
must be acknowledged within 3 s, or Slack sends it again. Before Slack closes a connection it sends
``disconnect`` (docs.slack.dev/apis/events-api/using-socket-mode). Import this module late: it loads the
WebSocket and HTTP libraries.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import structlog
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from engine.model.errors import PermanentError, TemporaryError
from engine.outbound.sender import Sender
from engine.outbound.slack import call_web_api

if TYPE_CHECKING:
    from collections.abc import Callable

    from websockets.sync.client import ClientConnection

log = structlog.get_logger()
MAX_MESSAGE = 512 << 10
"""Bytes of a message. An envelope repeats the message with the buttons: 50 blocks of 3,000 characters."""
MIN_DELAY, MAX_DELAY = 1.0, 60.0
"""Seconds before the engine connects again after a failure. They double, with jitter."""
STABLE = 30.0
"""Seconds after which a connection counts as good, so that a loop of short connections is slowed down."""
TIMEOUT = 10.0
"""Seconds to open a connection, and for a call of the Web API."""
PING_INTERVAL = 20.0
"""Seconds between two pings, and for the answer to a ping. A silent connection is opened again."""
TOO_BIG = 1009
"""Close code of a WebSocket for a message over the limit (RFC 6455, section 7.4.1)."""


class SlackSocket:
    """Keeps one connection to Slack in a thread.

    api: URL of the Web API. app_token: returns the app token; raises TemporaryError or PermanentError.
    on_envelope: receives the app id of the connection and each envelope. The envelope is acknowledged if this
    returns, and sent again by Slack if it raises TemporaryError. on_oversized: called for a message over
    MAX_MESSAGE. error: why the connection is not open, or None.
    """

    def __init__(
        self,
        api: str,
        app_token: Callable[[], str],
        on_envelope: Callable[[str, dict[str, Any]], None],
        on_oversized: Callable[[], None],
    ) -> None:
        self._api, self._app_token = api, app_token
        self._on_envelope, self._on_oversized = on_envelope, on_oversized
        self._sender = Sender()
        self._stopping = threading.Event()
        self._connection: ClientConnection | None = None
        self._thread = threading.Thread(target=self._run, name="tiercel-slack", daemon=True)
        self._app, self._is_ready = "", False
        self.error: str | None = "not connected yet"

    def start(self) -> None:
        """Start to connect."""
        self._thread.start()

    def status(self) -> dict[str, str | None]:
        """Return kind, target and error, as ``/status`` shows them beside the event sources."""
        return {"kind": "slack", "target": self._api, "error": self.error}

    def stop(self) -> None:
        """Close the connection, and wait for the thread."""
        self._stopping.set()
        connection = self._connection
        if connection is not None:
            connection.close()
        self._thread.join(TIMEOUT)

    def _run(self) -> None:
        delay = MIN_DELAY
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._serve()
                problem = None
            except (TemporaryError, PermanentError) as error:
                problem = str(error)
            except (WebSocketException, OSError, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"[:200]
            except Exception:  # a bug must not end the thread: people could not answer any longer
                log.exception("slack_failed")
                problem = "internal error"
            if self._is_ready and time.monotonic() - began >= STABLE:
                delay = MIN_DELAY
            quick = self._is_ready and problem is None and delay == MIN_DELAY
            self._is_ready = False
            self.error = problem or "connecting again"
            if problem and not self._stopping.is_set():
                log.warning("slack_disconnected", error=problem, again_in=round(delay, 1))
            # Slack closes connections regularly and announces it: connect again at once
            self._stopping.wait(0.0 if quick else delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            delay = min(MAX_DELAY, 2 * delay)

    def _serve(self) -> None:
        """Serve one connection until it ends. Raises TemporaryError, PermanentError, errors of the socket."""
        url = self._open()
        with connect(
            url, max_size=MAX_MESSAGE, open_timeout=TIMEOUT, ping_interval=PING_INTERVAL,
            ping_timeout=PING_INTERVAL, close_timeout=1.0, user_agent_header="tiercel",
        ) as connection:  # fmt: skip
            self._connection = connection
            try:
                for text in connection:
                    if not self._receive(connection, text):
                        return
            except ConnectionClosed as error:
                if error.sent is None or error.sent.code != TOO_BIG:
                    raise
                self._on_oversized()
                what = f"Slack sent a message over {MAX_MESSAGE >> 10} KiB"
                raise PermanentError(what) from None
            finally:
                self._connection = None

    def _receive(self, connection: ClientConnection, text: str | bytes) -> bool:
        """Handle one message. Return False if the connection must be opened again."""
        try:
            message = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            message = None
        if not isinstance(message, dict):
            log.warning("slack_message_invalid", error="it is not a JSON object")
            return True
        kind, envelope = message.get("type"), message.get("envelope_id")
        if kind == "hello":
            info = message.get("connection_info")
            self._app = str(info.get("app_id") or "")[:64] if isinstance(info, dict) else ""
            self._is_ready, self.error = True, None
            log.info("slack_connected", app=self._app)
        elif kind == "disconnect":
            reason = str(message.get("reason"))[:80]
            if reason == "link_disabled":
                raise PermanentError("Socket Mode is switched off in the settings of the Slack app")
            log.info("slack_asks_to_reconnect", reason=reason)
            return False
        elif isinstance(envelope, str) and len(envelope) <= 100:  # noqa: PLR2004 - Slack's are UUIDs
            try:
                self._on_envelope(self._app, message)
            except TemporaryError as error:  # not acknowledged, so that Slack sends it again
                log.warning("slack_press_postponed", error=str(error))
            else:
                connection.send(msgspec.json.encode({"envelope_id": envelope}).decode())
        return True

    def _open(self) -> str:
        """Return the URL of a new connection. Raises TemporaryError, PermanentError."""
        login = self._app_token(), self._api
        answer = call_web_api(self._sender, login, "apps.connections.open", {}, TIMEOUT)
        url = str(answer.get("url") or "")
        api, found = urlsplit(self._api), urlsplit(url)
        domain = api.hostname or ""
        expected = "wss" if api.scheme == "https" else "ws"
        host = found.hostname or ""
        if found.scheme != expected or not (host == domain or host.endswith(f".{domain}")):
            raise PermanentError(f"Slack named a connection that is not {expected}://….{domain}")
        return url
