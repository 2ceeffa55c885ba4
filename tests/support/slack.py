"""Stand-ins for Slack on loopback: the Web API that the engine uses, Socket Mode, and incoming webhooks.

The shapes are those of docs.slack.dev: apps.connections.open, hello, disconnect, envelopes with block_actions,
acknowledgements, chat.postMessage, chat.update and chat.postEphemeral.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from tests.support.engine import PATIENCE
from tests.support.loopback_server import LoopbackServer
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from email.message import Message

    from tests.support.loopback_server import Response
    from websockets.sync.server import ServerConnection

APP, TEAM, CHANNEL = "A0123APP", "T0123TEAM", "C0123CHAN"
APP_TOKEN, BOT_TOKEN = "xapp-1-A0123APP-1-0123456789abcdef", "xoxb-0123456789-abcdef"


class Webhook(LoopbackServer):
    """A stand-in for Slack's incoming webhooks. messages: (seconds of the monotonic clock, JSON) of each."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[float, dict[str, Any]]] = []

    def respond(self, method: str, path: str, headers: Message, body: bytes) -> Response:
        """Accept a message."""
        del method, path, headers
        self.messages.append((time.monotonic(), json.loads(body)))
        return 200, {}, b"ok"


class Slack:
    """The stand-in.

    api: URL of the Web API. calls: method and body of each call. messages: (channel, ts) -> body of the last
    version. acknowledged: ids of envelopes. opened: number of connections so far.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.messages: dict[tuple[str, str], dict[str, Any]] = {}
        self.acknowledged: list[str] = []
        self.opened = 0
        self.failing = False
        self.connections: list[ServerConnection] = []
        self._changed = threading.Condition()
        self._ids = itertools.count(1)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._sockets = serve(self._connected, "127.0.0.1", 0)
        self._threads = [
            threading.Thread(
                target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
            ),
            # daemon, because the threads of its connections inherit it
            threading.Thread(target=self._sockets.serve_forever, daemon=True),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()
        self._http.shutdown()
        self._http.server_close()
        self._sockets.shutdown()
        for thread in self._threads:
            thread.join()

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/api/"

    def wait_for(self, what: Callable[[], Any]) -> Any:
        """Return the first true value of a function, checked after each change."""
        with self._changed:
            found = self._changed.wait_for(what, PATIENCE)
        assert found, f"never happened; Slack got {self.calls}, acknowledged {self.acknowledged}"
        return found

    def message(self, contains: str = "") -> tuple[str, str]:
        """Return channel and timestamp of the newest message with a text. Waits for it."""
        return self.wait_for(
            lambda: next(
                (it for it, body in reversed(self.messages.items()) if contains in body["text"]),
                None,
            )
        )

    def press(
        self,
        place: tuple[str, str],
        verdict: str,
        user: str,
        connection: ServerConnection | None = None,
        /,
        **changes: Any,
    ) -> dict[str, Any]:
        """Press a button of a message. Return the envelope. changes: of the payload, or ``value``."""
        buttons = [
            element
            for block in self.messages[place]["blocks"]
            if block["type"] == "actions"
            for element in block["elements"]
            if element["action_id"].endswith(verdict)
        ]
        return self.press_button(place, buttons[0], user, connection, **changes)

    def press_button(
        self,
        place: tuple[str, str],
        button: dict[str, Any],
        user: str,
        connection: ServerConnection | None = None,
        /,
        **changes: Any,
    ) -> dict[str, Any]:
        """Press a button that the message may no longer have."""
        value = changes.pop("value", button["value"])
        channel, ts = place
        payload = {
            "type": "block_actions",
            "user": {"id": user, "username": user.lower(), "team_id": TEAM},
            "api_app_id": APP,
            "token": "verification",
            "container": {
                "type": "message", "message_ts": ts, "channel_id": channel, "is_ephemeral": False,
            },
            "trigger_id": "12321423423.333649436676.d8c1bb837935619ccad0f624c448ffb3",
            "team": {"id": TEAM, "domain": "example"},
            "enterprise": None,
            "is_enterprise_install": False,
            "channel": {"id": channel, "name": "security"},
            "message": {"type": "message", "ts": ts, **self.messages.get(place, {})},
            "state": {"values": {}},
            "response_url": "https://hooks.slack.com/actions/T0/1/x",
            "actions": [{**button, "value": value, "block_id": "tiercel-hold", "action_ts": "1.1"}],
            **changes,
        }  # fmt: skip
        return self.send(self.envelope(payload), connection)

    def envelope(self, payload: Any, kind: str = "interactive") -> dict[str, Any]:
        """Return an envelope with a new id."""
        return {
            "type": kind, "envelope_id": str(uuid.uuid4()), "payload": payload,
            "accepts_response_payload": False, "retry_attempt": 0, "retry_reason": "",
        }  # fmt: skip

    def send(self, envelope: Any, connection: ServerConnection | None = None) -> Any:
        """Send an envelope over a connection, the newest by default. Waits for a connection."""
        self.wait_for(lambda: self.connections)
        text = envelope if isinstance(envelope, str) else json.dumps(envelope)
        (connection or self.connections[-1]).send(text)
        return envelope

    def sent_and_acknowledged(self, envelope: dict[str, Any]) -> dict[str, Any]:
        """Send an envelope again, and wait for the next acknowledgement of it."""
        id_ = envelope["envelope_id"]
        before = self.acknowledged.count(id_)
        self.send(envelope)
        self.wait_for(lambda: self.acknowledged.count(id_) > before)
        return envelope

    def drop(self) -> None:
        """Close all connections, as a failure of the network does."""
        for connection in self.connections.copy():
            connection.close()

    def _connected(self, connection: ServerConnection) -> None:
        hello = {
            "type": "hello", "num_connections": 1, "connection_info": {"app_id": APP},
            "debug_info": {"host": "applink", "build_number": 10, "approximate_connection_time": 18060},
        }  # fmt: skip
        connection.send(json.dumps(hello))
        with self._changed:
            self.opened += 1
            self.connections.append(connection)
            self._changed.notify_all()
        try:
            for text in connection:
                with self._changed:
                    self.acknowledged.append(json.loads(text)["envelope_id"])
                    self._changed.notify_all()
        except ConnectionClosed:
            pass
        finally:
            with self._changed:
                self.connections.remove(connection)
                self._changed.notify_all()

    def _answer(self, method: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
        wanted = APP_TOKEN if method == "apps.connections.open" else BOT_TOKEN
        if token != f"Bearer {wanted}":
            return {"ok": False, "error": "invalid_auth"}
        if self.failing:
            return {"ok": False, "error": "internal_error"}
        if method == "apps.connections.open":
            port = self._sockets.socket.getsockname()[1]
            return {
                "ok": True,
                "url": f"ws://127.0.0.1:{port}/link/?ticket={uuid.uuid4()}&app_id={APP}",
            }
        if method == "chat.postMessage":
            ts = f"1700000000.{next(self._ids):06}"
            self.messages[body["channel"], ts] = body
            return {"ok": True, "channel": body["channel"], "ts": ts, "message": body}
        if method == "chat.update":
            place = body["channel"], body["ts"]
            if place not in self.messages:
                return {"ok": False, "error": "message_not_found"}
            self.messages[place] = body
            return {"ok": True, "channel": body["channel"], "ts": body["ts"]}
        return {"ok": method == "chat.postEphemeral", "error": "unknown_method"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        slack = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                method = self.path.removeprefix("/api/")
                with slack._changed:
                    answer = slack._answer(method, self.headers.get("Authorization", ""), body)
                    slack.calls.append((method, body))
                    slack._changed.notify_all()
                content = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Write nothing."""

        return Handler
