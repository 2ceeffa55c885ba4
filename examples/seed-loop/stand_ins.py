"""Stand-ins for Loki and Slack on loopback, for `make loop` and the tests.

They accept what the real services accept, answer as they answer, and keep a limited number of records in memory.

    with Loki() as loki, Slack() as slack:
        print(loki.url, slack.webhook)

Loki implements the push API in JSON, log queries with stream selectors and line filters, and the two label
endpoints. Slack implements incoming webhooks and `chat.postMessage`. Other requests get an error that says what
is missing.
"""

from __future__ import annotations

import abc
import http.server
import json
import sys
import threading
import time
import zlib
from collections import OrderedDict, deque
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

import re2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    Reply = tuple[int, str, bytes]
    Labels = tuple[tuple[str, str], ...]

MAX_BODY = 4 << 20
"""Bytes of a request, also after decompression."""
MAX_ENTRIES = 10_000
"""Log entries that the Loki stand-in keeps. The oldest ones go first."""
MAX_STREAMS = 1_000
MAX_LINE = 256 << 10
"""Bytes of a log line, as in Loki's max_line_size."""
MAX_LABELS = 15
"""Labels of a stream, as in Loki's max_label_names_per_series."""
MAX_QUERY = 5_120
"""Bytes of a query, as in Loki's max_query_length."""
MAX_LIMIT = 5_000
"""Entries of a response, as in Loki's max_entries_limit_per_query."""
MAX_MESSAGES = 1_000
"""Messages that the Slack stand-in keeps."""
HOUR = 3_600_000_000_000
"""Nanoseconds."""
_PATIENCE = 30
"""Seconds until a silent connection is closed."""


class RequestError(Exception):
    """An error response: the HTTP status and its text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class StandIn(abc.ABC):
    """An HTTP server on a port of 127.0.0.1. A context manager that ends it.

    port: 0 selects a free port. fault: if it is an HTTP status, every POST gets this status and nothing is kept.
    """

    def __init__(self, port: int = 0) -> None:
        self.fault: int | None = None
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._server = _Server(port, self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name=type(self).__name__, daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait_for(self, look: Callable[[], Any], timeout: float = 60.0) -> Any:
        """Return what ``look`` returns as soon as it is true. It is called after each POST.

        Raises TimeoutError after ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            found = look()
            if found:
                return found
            with self._changed:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{type(self).__name__} did not receive it in {timeout} s")
                self._changed.wait(min(left, 0.5))

    @abc.abstractmethod
    def reply(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return status, content type and body of the response. Raises RequestError."""

    def changed(self) -> None:
        """Wake the callers of ``wait_for``."""
        with self._changed:
            self._changed.notify_all()


class _Server(http.server.ThreadingHTTPServer):
    """The server of a stand-in."""

    daemon_threads = True

    def __init__(self, port: int, stand_in: StandIn) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.stand_in = stand_in

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of a bug. A client that is gone is not one."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    """Reads a request within the limits, and sends the reply of the stand-in."""

    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE
    server: _Server

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdecimal() or int(length[:12]) > MAX_BODY:
            self.close_connection = True  # the body is not read
            self._send(
                413 if length else 411, "text/plain", b"send at most 4 MiB, with its length\n"
            )
            return
        body = self.rfile.read(int(length))
        if self.server.stand_in.fault is not None:
            self._send(self.server.stand_in.fault, "text/plain", b"the stand-in was told to fail\n")
            return
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        stand_in = self.server.stand_in
        try:
            reply = stand_in.reply(self.command, self.path, self.headers, body)
        except RequestError as error:
            reply = error.status, "text/plain; charset=utf-8", f"{error.text}\n".encode()
        self._send(*reply)
        if self.command == "POST":
            stand_in.changed()

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        if status != 204:  # noqa: PLR2004 - No Content
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write no access log."""


def json_reply(value: Any) -> Reply:
    """Return a value as a successful JSON response."""
    return 200, "application/json", json.dumps(value, ensure_ascii=False).encode()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RequestError(400, "the body is not valid JSON") from None


def _decompressed(headers: Mapping[str, str], body: bytes) -> bytes:
    encoding = headers.get("Content-Encoding", "")
    if not encoding:
        return body
    if encoding != "gzip":
        raise RequestError(415, f"Content-Encoding {encoding} is not supported: use gzip")
    gunzip = zlib.decompressobj(wbits=31)
    try:
        content = gunzip.decompress(body, MAX_BODY)
    except zlib.error:
        raise RequestError(400, "the body is not valid gzip") from None
    if gunzip.unconsumed_tail or not gunzip.eof:
        raise RequestError(
            413 if gunzip.unconsumed_tail else 400, "the body is too large or cut off"
        )
    return content


class Entry(NamedTuple):
    """A log entry: its time in nanoseconds since the epoch, and its line."""

    time: int
    line: str


class Matcher(NamedTuple):
    """A matcher of a stream selector. A missing label has the value ""."""

    label: str
    operator: str
    value: str

    def compiled(self) -> Callable[[Mapping[str, str]], bool]:
        """Return a test of a stream's labels. Raises RequestError for an invalid expression."""
        wanted = self.operator in ("=", "=~")
        if self.operator in ("=", "!="):
            return lambda labels: (labels.get(self.label, "") == self.value) == wanted
        expression = _expression(self.value)
        return lambda labels: bool(expression.fullmatch(labels.get(self.label, ""))) == wanted


class LineFilter(NamedTuple):
    """A line filter: |=, !=, |~ or !~ and its value."""

    operator: str
    value: str

    def compiled(self) -> Callable[[str], bool]:
        """Return a test of a line. Raises RequestError for an invalid expression."""
        wanted = self.operator.startswith("|")
        if self.operator.endswith("="):
            return lambda line: (self.value in line) == wanted
        expression = _expression(self.value)
        return lambda line: bool(expression.search(line)) == wanted


def _expression(text: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(text, options)
    except re2.error:
        raise RequestError(400, f"parse error: invalid regular expression {text!r}") from None


_STRING = r'("(?:[^"\\\n]|\\.)*"|`[^`]*`)'
_MATCHER = re2.compile(rf"\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*{_STRING}\s*")
_FILTER = re2.compile(rf"\s*(\|=|!=|\|~|!~)\s*{_STRING}\s*")
_LABEL = re2.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_SUPPORTED = '{label="value"} with =, !=, =~ and !~, followed by the line filters |=, !=, |~ and !~'


def parse_query(query: str) -> tuple[list[Matcher], list[LineFilter]]:
    """Parse a log query with a stream selector and line filters.

    Raises RequestError (400) for everything else. The message contains the column.
    """
    if len(query.encode("utf-8", "replace")) > MAX_QUERY:
        raise RequestError(400, f"the query is longer than {MAX_QUERY} bytes")
    text = query.strip()
    if not text.startswith("{"):
        raise _parse_error(query, text)
    matchers: list[Matcher] = []
    rest = text[1:].lstrip()
    while not rest.startswith("}"):
        found = _MATCHER.match(rest)
        if not found:
            raise _parse_error(query, rest)
        matchers.append(Matcher(found[1], found[2], _unquoted(found[3])))
        rest = rest[found.end() :]
        if rest.startswith(",") and not rest[1:].lstrip().startswith("}"):
            rest = rest[1:]
        elif not rest.startswith("}"):
            raise _parse_error(query, rest)
    if not any(_needs_a_value(matcher) for matcher in matchers):
        raise RequestError(
            400,
            "queries require at least one regexp or equality matcher that does not have an "
            "empty-compatible value",
        )
    filters: list[LineFilter] = []
    rest = rest[1:].strip()
    while rest:
        found = _FILTER.match(rest)
        if not found:
            raise _parse_error(query, rest)
        filters.append(LineFilter(found[1], _unquoted(found[2])))
        rest = rest[found.end() :]
    return matchers, filters


def _needs_a_value(matcher: Matcher) -> bool:
    return matcher.operator in ("=", "=~") and not matcher.compiled()({})


def _parse_error(query: str, rest: str) -> RequestError:
    column = len(query.rstrip()) - len(rest.rstrip()) + 1
    return RequestError(
        400, f"parse error at line 1, col {column}: this stand-in reads {_SUPPORTED}"
    )


def _unquoted(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]
    try:
        value: str = json.loads(text)
    except ValueError:
        raise RequestError(400, f"parse error: invalid string {text}") from None
    return value


class Loki(StandIn):
    """A stand-in for Loki: push, query_range, labels."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self._streams: OrderedDict[Labels, deque[Entry]] = OrderedDict()
        self._order: deque[Labels] = deque()
        """The stream of each entry, oldest first."""

    def query(self, query: str) -> list[tuple[dict[str, str], Entry]]:
        """Return all entries that a log query selects, by time, each with the labels of its stream."""
        matchers, filters = parse_query(query)
        streams = [matcher.compiled() for matcher in matchers]
        lines = [one.compiled() for one in filters]
        with self.lock:
            kept = [(dict(labels), list(entries)) for labels, entries in self._streams.items()]
        found = [
            (labels, entry)
            for labels, entries in kept
            if all(test(labels) for test in streams)
            for entry in entries
            if all(test(entry.line) for test in lines)
        ]
        return sorted(found, key=lambda one: one[1].time)

    def push(self, streams: Iterable[tuple[Mapping[str, str], Iterable[Entry]]]) -> None:
        """Keep the entries of streams, given as labels and entries. Raises RequestError (429)."""
        with self.lock:
            for labels, entries in streams:
                key = tuple(sorted(labels.items()))
                if key not in self._streams and len(self._streams) >= MAX_STREAMS:
                    raise RequestError(429, f"maximum active stream limit exceeded: {MAX_STREAMS}")
                for entry in entries:
                    self._streams.setdefault(key, deque()).append(entry)
                    self._order.append(key)
            while len(self._order) > MAX_ENTRIES:
                oldest = self._order.popleft()
                self._streams[oldest].popleft()
                if not self._streams[oldest]:
                    del self._streams[oldest]

    def reply(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer a request of the Loki API."""
        parts = urlsplit(target)
        given = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        path = parts.path
        if path == "/ready":
            return 200, "text/plain", b"ready\n"
        if path == "/loki/api/v1/push":
            if method != "POST":
                raise RequestError(405, "use POST")
            self.push(_streams(headers, body))
            return 204, "", b""
        if path == "/loki/api/v1/query_range":
            if method == "POST":
                form = parse_qs(body.decode("utf-8", "replace"))
                given |= {name: values[-1] for name, values in form.items()}
            return self._query_range(given)
        if path == "/loki/api/v1/labels":
            return json_reply({"status": "success", "data": self._labels()})
        prefix, suffix = "/loki/api/v1/label/", "/values"
        if path.startswith(prefix) and path.endswith(suffix):
            name = unquote(path[len(prefix) : -len(suffix)])
            return json_reply({"status": "success", "data": self._values(name)})
        raise RequestError(404, "page not found: this stand-in has push, query_range and labels")

    def _labels(self) -> list[str]:
        with self.lock:
            return sorted({name for labels in self._streams for name, _ in labels})

    def _values(self, wanted: str) -> list[str]:
        with self.lock:
            return sorted(
                {text for labels in self._streams for name, text in labels if name == wanted}
            )

    def _query_range(self, given: Mapping[str, str]) -> Reply:
        now = time.time_ns()
        end = _time(given.get("end"), now + 1)
        start = _time(given.get("start"), end - HOUR)
        limit = given.get("limit", "100")
        if not limit.isdecimal() or not 0 < int(limit[:9]) <= MAX_LIMIT:
            raise RequestError(400, f"limit must be 1 to {MAX_LIMIT}")
        direction = given.get("direction", "backward").lower()
        if direction not in ("backward", "forward"):
            raise RequestError(400, f"invalid direction {direction!r}")
        found = [one for one in self.query(given.get("query", "")) if start <= one[1].time < end]
        if direction == "backward":
            found.reverse()
        streams: dict[Labels, list[list[str]]] = {}
        for labels, entry in found[: int(limit)]:
            key = tuple(sorted(labels.items()))
            streams.setdefault(key, []).append([str(entry.time), entry.line])
        result = [{"stream": dict(key), "values": values} for key, values in streams.items()]
        data = {"resultType": "streams", "result": result, "stats": {}}
        return json_reply({"status": "success", "data": data})


def _time(text: str | None, default: int) -> int:
    """Return nanoseconds of a time in Loki's forms: nanoseconds, seconds with a fraction, or RFC 3339."""
    if text is None:
        return default
    try:
        if text.isdecimal() and len(text) > 10:  # noqa: PLR2004 - longer than seconds, as Loki decides
            return int(text[:20])
        if text.replace(".", "", 1).isdecimal():
            return int(float(text) * 1e9)
        return int(datetime.fromisoformat(text).timestamp() * 1e9)
    except (ValueError, OverflowError):
        raise RequestError(400, f"could not parse {text[:40]!r} as a time") from None


def _streams(headers: Mapping[str, str], body: bytes) -> list[tuple[dict[str, str], list[Entry]]]:
    content_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise RequestError(
            415, "Content-Type must be application/json: this stand-in reads no protobuf"
        )
    given = _json(_decompressed(headers, body))
    streams = given.get("streams") if isinstance(given, dict) else None
    if not isinstance(streams, list):
        raise RequestError(400, "the body has no list `streams`")
    return [_stream(one) for one in streams]


def _stream(given: Any) -> tuple[dict[str, str], list[Entry]]:
    labels = given.get("stream") if isinstance(given, dict) else None
    values = given.get("values") if isinstance(given, dict) else None
    if not isinstance(labels, dict) or not isinstance(values, list):
        raise RequestError(400, "a stream needs `stream` with its labels and `values`")
    if not labels:
        raise RequestError(400, "error at least one label pair is required per stream")
    if len(labels) > MAX_LABELS:
        raise RequestError(400, f"the stream has {len(labels)} labels; the limit is {MAX_LABELS}")
    for name, value in labels.items():
        if not _LABEL.fullmatch(name) or not isinstance(value, str):
            raise RequestError(400, f"{name[:60]!r} is not a valid label with a text")
    return labels, [_entry(value) for value in values]


def _entry(value: Any) -> Entry:
    pair = value[:2] if isinstance(value, list) else []
    if len(pair) != 2 or not all(isinstance(part, str) for part in pair):  # noqa: PLR2004 - time and line
        raise RequestError(400, "a value is [time in nanoseconds as text, line]")
    if not pair[0].isascii() or not pair[0].isdecimal() or len(pair[0]) > 19:  # noqa: PLR2004 - int64
        raise RequestError(400, f"{pair[0][:40]!r} is not a time in nanoseconds")
    if len(pair[1].encode("utf-8", "replace")) > MAX_LINE:
        raise RequestError(400, f"max entry size {MAX_LINE} bytes exceeded")
    return Entry(int(pair[0]), pair[1])


class Slack(StandIn):
    """A stand-in for Slack: incoming webhooks and chat.postMessage.

    messages: what was accepted, oldest first, at most MAX_MESSAGES. A message that was posted with a token
    has the key ``channel``.
    """

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.messages: deque[dict[str, Any]] = deque(maxlen=MAX_MESSAGES)
        self.webhook = f"{self.url}/services/T00000000/B00000000/{'X' * 24}"
        """The URL of an incoming webhook."""
        self.api = f"{self.url}/api/"
        """The URL of the Web API."""

    def texts(self) -> Iterator[str]:
        """Yield the text of each message, or the fallback text of its first attachment."""
        for message in tuple(self.messages):
            attachments = message.get("attachments") or [{}]
            yield message.get("text") or attachments[0].get("fallback", "")

    def reply(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer a request of an incoming webhook or of the Web API."""
        path = urlsplit(target).path
        if method != "POST":
            raise RequestError(405, "use POST")
        if path.startswith("/services/"):
            return self._webhook(path, headers, body)
        if path == "/api/chat.postMessage":
            return self._post_message(headers, body)
        raise RequestError(404, "this stand-in has /services/… and /api/chat.postMessage")

    def _webhook(self, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        if len([part for part in path.split("/") if part]) != 4:  # noqa: PLR2004 - services, team, webhook, secret
            return 404, "text/plain", b"no_service"
        try:
            message = _message(headers, body)
        except RequestError:
            return 400, "text/plain", b"invalid_payload"
        if not _has_content(message):
            return 400, "text/plain", b"no_text"
        if len(message.get("blocks") or ()) > 50:  # noqa: PLR2004 - Slack's limit
            return 400, "text/plain", b"invalid_blocks"
        with self.lock:
            self.messages.append(message)
        return 200, "text/html", b"ok"

    def _post_message(self, headers: Mapping[str, str], body: bytes) -> Reply:
        if not headers.get("Authorization", "").startswith("Bearer "):
            return json_reply({"ok": False, "error": "not_authed"})
        try:
            message = _message(headers, body)
        except RequestError:
            return json_reply({"ok": False, "error": "invalid_json"})
        if not isinstance(message.get("channel"), str) or not message["channel"]:
            return json_reply({"ok": False, "error": "channel_not_found"})
        if not _has_content(message):
            return json_reply({"ok": False, "error": "no_text"})
        with self.lock:
            self.messages.append(message)
            sent = f"{time.time_ns() // 1_000_000_000}.{len(self.messages):06d}"
        return json_reply(
            {"ok": True, "channel": message["channel"], "ts": sent, "message": message}
        )


def _message(headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Return the message of a request: JSON, or JSON in the form field `payload`. Raises RequestError."""
    if headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
        form = parse_qs(body.decode("utf-8", "replace"))
        body = form.get("payload", [""])[-1].encode()
    message = _json(body)
    if not isinstance(message, dict):
        raise RequestError(400, "the message is not an object")
    return message


def _has_content(message: Mapping[str, Any]) -> bool:
    return any(message.get(key) for key in ("text", "blocks", "attachments"))


class AlertReceiver(StandIn):
    """A receiver of Alertmanager's webhooks. alerts: what it received, oldest first, at most MAX_MESSAGES."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port)
        self.alerts: deque[dict[str, Any]] = deque(maxlen=MAX_MESSAGES)

    def firing(self) -> dict[str, dict[str, Any]]:
        """Return the alerts that fire, by name. Of one name, the last that was received."""
        last: dict[tuple[str, str], dict[str, Any]] = {}
        for alert in tuple(self.alerts):
            last[alert["labels"]["alertname"], alert["fingerprint"]] = alert
        return {name: it for (name, _), it in last.items() if it["status"] == "firing"}

    def reply(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Keep the alerts of a notification."""
        del target, headers
        given = _json(body) if method == "POST" else None
        alerts = given.get("alerts") if isinstance(given, dict) else None
        if not isinstance(alerts, list):
            raise RequestError(400, "the body has no list `alerts`")
        with self.lock:
            self.alerts.extend(alerts)
        return 200, "text/plain", b""
