"""A Falco alert as a frozen record, and the parser from JSON.

The formats are those of Falco 0.30 to 0.44 and of Falcosidekick 2.34. Falcosidekick forwards Falco's JSON,
adds a new ``uuid`` each time it sends, and spells the source ``syscalls``.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any

import msgspec

from engine.model.errors import EventError

PRIORITIES = (
    "Emergency", "Alert", "Critical", "Error", "Warning", "Notice", "Informational", "Debug",
)  # fmt: skip
"""Falco's priorities, the most severe first. A priority is an index into this tuple."""

_PRIORITY = {name.lower(): number for number, name in enumerate(PRIORITIES)} | {"info": 6}
_SPELLINGS = {spelling: n for low, n in _PRIORITY.items() for spelling in (low, low.title())}
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_BYTE = re.compile(r"\(byte (\d+)\)")
_HALF = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
_HINTS = (
    (re.compile(rb"\x1f\x8b"), "this is gzip: send `Content-Encoding: gzip` with it"),
    (re.compile(rb"\xff\xfe|\xfe\xff|.\0", re.DOTALL), "this is UTF-16: send UTF-8"),
    (re.compile(rb"\s*\d\d:\d\d:\d\d"), "this is text: set `json_output: true` in falco.yaml"),
    (re.compile(rb"\s*[\[{]\s*'"), "JSON needs double quotes"),
    (re.compile(rb"\s*<"), "this is XML or HTML: send JSON"),
)
"""Pattern of the first bytes of a body that is not JSON -> hint for the sender."""
_KEYS = frozenset(
    ("hostname", "output", "output_fields", "priority", "rule", "source", "tags", "time", "uuid")
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000_000
_decode = msgspec.json.Decoder().decode
_canonical = msgspec.json.Encoder(order="deterministic").encode

ASSUMED_TIME_NS = 946_684_800 * _SECOND
"""2000-01-01T00:00:00Z: in previews, the time of an event that does not give one."""

MAX_DEPTH = 100
"""Levels of lists and objects in a body, so that code that walks an alert may recurse. Falco uses three."""

ABSENT = (None, "", "<NA>")
"""How Falco and its plugins spell an absent value. An empty list is absent, too."""


class Event(msgspec.Struct, frozen=True, eq=False, dict=True):  # noqa: PLW1641 - its fields are a dict
    """A Falco alert.

    It is a struct because a frozen dataclass takes eight times as long to create. ``dict`` gives it a
    place for ``cached_property``. Two events are equal if all values except ``sent`` are equal.

    Attributes:
        priority: index into PRIORITIES, or None.
        time_ns: nanoseconds since the epoch.
        timed: whether the alert gave its time. An event without a time is never a duplicate.
        fields: ``output_fields``.
        sent: the alert as it was received.
        salt: any text that distinguishes this event from other events without a time.
        original: the identity before values were redacted, or "" if nothing was redacted.

    """

    rule: str
    priority: int | None
    time_ns: int
    timed: bool
    source: str
    hostname: str | None
    tags: tuple[str, ...]
    output: str
    fields: dict[str, Any]
    sent: dict[str, Any]
    salt: str = ""
    original: str = ""

    def __eq__(self, other: object) -> bool:
        """Return whether all values except ``sent`` are equal."""
        return isinstance(other, Event) and _compared(self) == _compared(other)

    @cached_property
    def alert(self) -> dict[str, Any]:
        """The whole normalised alert, for jsonPath. Created at the first use; do not change it."""
        alert = self.sent | {
            "source": self.source,
            "tags": list(self.tags),
            "output_fields": self.fields,
            "time": format_time(self.time_ns),
        }
        if self.priority is not None:
            alert["priority"] = PRIORITIES[self.priority]
        return alert

    @property
    def time(self) -> float:
        """Seconds since the epoch."""
        return self.time_ns / _SECOND


def _compared(event: Event) -> tuple[Any, ...]:
    return tuple(getattr(event, name) for name in Event.__struct_fields__ if name != "sent")


def parse_priority(word: str) -> int | None:
    """Return the index into PRIORITIES, or None. ``word`` may be in any case; ``info`` is accepted."""
    return _PRIORITY.get(word.lower())


def normalize_source(source: str | None) -> str:
    """Return the name of a source. Falcosidekick sends ``syscalls`` if Falco gave no source."""
    return source if source and source != "syscalls" else "syscall"


def parse_time(text: str) -> int:
    """Return nanoseconds since the epoch from RFC 3339. Ignores digits after the ninth. Raises ValueError."""
    if len(text) == 30 and text[29] == "Z":  # noqa: PLR2004 - the format of Falco
        head, digits = _seconds(text[:20]), text[20:29]
        if head is not None and digits.isascii() and digits.isdecimal():
            return head * _SECOND + int(digits)
    return _parse_any_time(text)


def _parse_any_time(text: str) -> int:
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError(text)
    day, clock, fraction, sign, hours, minutes = found.groups()
    elapsed = datetime.fromisoformat(f"{day}T{clock}+00:00") - _EPOCH
    seconds = elapsed.days * 86_400 + elapsed.seconds
    if sign:
        if int(hours) > 23 or int(minutes) > 59:  # noqa: PLR2004 - hours of a day, minutes of an hour
            raise ValueError(text)
        offset = int(hours) * 3600 + int(minutes) * 60
        seconds += -offset if sign == "+" else offset
    return seconds * _SECOND + int((fraction or "0")[:9].ljust(9, "0"))


@lru_cache(1024)  # the times of events in a burst or a file share their seconds
def _seconds(head: str) -> int | None:
    """Return the seconds of a time that ends with its decimal point, or None if it is not valid."""
    try:
        return _parse_any_time(f"{head}0Z") // _SECOND if head[19] == "." else None
    except ValueError:
        return None


def format_time(ns: int) -> str:
    """Format nanoseconds since the epoch as RFC 3339 in UTC, without trailing zeros, as Go does."""
    seconds, rest = divmod(ns, _SECOND)
    return f"{_format_seconds(seconds)}.{rest:09d}".rstrip("0").rstrip(".") + "Z"


@lru_cache(1024)  # as above
def _format_seconds(seconds: int) -> str:
    try:
        text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    except OverflowError:  # with its offset, a time of year 1 or 9999 can leave the calendar
        text = "0001-01-01T00:00:00" if seconds < 0 else "9999-12-31T23:59:59"
    return text.zfill(19)


def decode_json(body: bytes, start: int = 0) -> Any:
    """Decode JSON. Raises EventError if it is not JSON, not UTF-8 or nested too deep.

    start: offset of ``body`` in the input. Error messages give positions in the input.
    """
    try:
        value = _decode(body)
    except UnicodeDecodeError as error:
        at = start + _undecodable(body, error)
        raise EventError(f"not UTF-8 (byte {at})", _hint(body)) from None
    except msgspec.DecodeError as error:
        raise EventError(f"not JSON: {_reason(body, str(error), start)}", _hint(body)) from None
    except RecursionError:
        raise EventError("nested too deep", "send a Falco alert") from None
    # Counting brackets is cheaper than walking the value. An alert has few braces, so find() is fast.
    opened, at = body.count(b"["), body.find(b"{")
    while at >= 0 and opened <= MAX_DEPTH:
        opened, at = opened + 1, body.find(b"{", at + 1)
    if opened > MAX_DEPTH and _is_deep(value):
        raise EventError("nested too deep", "send a Falco alert")
    return value


def _undecodable(body: bytes, error: UnicodeDecodeError) -> int:
    """Return the position of the first byte that is not UTF-8; msgspec counts from the start of the string."""
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return wrong.start
    return error.start


def _reason(body: bytes, what: str, start: int) -> str:
    """Return the message of msgspec with positions in the input and without msgspec's paths."""
    half = _HALF.search(body)
    if half:
        return f"half of a surrogate pair: a string was cut within a character (byte {start + half.start()})"
    reason = what.removeprefix("JSON is malformed: ").partition(" - at `$")[0]
    return _BYTE.sub(lambda found: f"(byte {start + int(found[1])})", reason)


def _hint(body: bytes) -> str:
    """Return what the sender should change, from the first bytes of a body that is not JSON."""
    for beginning, hint in _HINTS:
        if beginning.match(body):
            return hint
    return "send one alert, an array, or one alert per line, as JSON in UTF-8"


def _is_deep(value: Any) -> bool:
    """Return whether lists and objects are nested more than MAX_DEPTH levels deep."""
    level: list[Any] = [value] if isinstance(value, (list, dict)) else []
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for node in level
            for child in (node if type(node) is list else node.values())
            if type(child) is list or type(child) is dict
        ]
        if not level:
            return False
    return True


def parse_event(value: Any, *, received_ns: int = ASSUMED_TIME_NS, salt: str = "") -> Event:
    """Return the event of a decoded alert. Raises EventError with a message for the sender.

    received_ns: the event's time if the alert does not give one. salt: see Event.
    """
    if not isinstance(value, dict):
        raise EventError("an event is a JSON object", "send Falco's JSON (json_output: true)")
    alert = value if _KEYS.issuperset(value) else _lowered(value)
    get = alert.get
    rule = get("rule")
    if not isinstance(rule, str) or not rule:
        raise EventError(
            "`rule` must be a non-empty string", "send Falco's JSON (json_output: true)"
        )
    fields = get("output_fields")
    if fields is None:
        fields = {}
    elif not isinstance(fields, dict):
        raise EventError("`output_fields` must be an object")
    word = get("priority")
    priority = _SPELLINGS.get(word) if type(word) is str else None
    if priority is None:
        priority = _priority(word)
    stamp = get("time")
    time_ns, timed = received_ns, stamp is not None
    if stamp is not None:
        time_ns = _stamped(stamp)
    source, hostname, output = get("source"), get("hostname"), get("output")
    if type(source) is not str or type(hostname) is not str or type(output) is not str:
        source, hostname, output = (_text(alert, key) for key in ("source", "hostname", "output"))
    source = normalize_source(source)
    return Event(
        rule, priority, time_ns, timed, source, None if hostname in ABSENT else hostname,
        _tags(get("tags")), output or "",
        fields, alert, "" if timed else salt,
    )  # fmt: skip


def identity(event: Event) -> str:
    """Return 32 hex digits that are the same each time the event is sent, directly or by a forwarder.

    Two values have no effect: Falcosidekick's ``uuid``, and the fields ``evt.time*``, which repeat the
    time in a format that depends on Falco's settings.
    """
    if event.original:
        return event.original
    fields = event.fields
    for key in fields:
        if key.startswith("evt.time"):
            fields = {k: v for k, v in fields.items() if not k.startswith("evt.time")}
            break
    time: int | str = event.time_ns if event.timed else event.salt
    content = _canonical([event.hostname, event.rule, event.source, time, fields])
    return hashlib.sha256(content).hexdigest()[:32]


def is_present(value: Any) -> bool:
    """Return whether a value of an alert is present (see ABSENT)."""
    if isinstance(value, (list, dict)):
        return value != []
    return value not in ABSENT


def _lowered(value: dict[str, Any]) -> dict[str, Any]:
    """Return the alert with top-level keys in lower case. If two keys are then equal, the last one wins."""
    return {key.lower(): item for key, item in value.items()}


def _priority(word: Any) -> int | None:
    if word is None:
        return None
    number = parse_priority(word) if isinstance(word, str) else None
    if number is None:
        raise EventError("`priority` is not one of Falco's priorities", ", ".join(PRIORITIES))
    return number


def _stamped(stamp: Any) -> int:
    if type(stamp) is not str:
        raise EventError("`time` must be a string")
    try:
        return parse_time(stamp)
    except ValueError:
        raise EventError(
            "`time` is not an RFC 3339 time", "example: 2026-03-01T10:00:00.5Z"
        ) from None


def _text(alert: dict[str, Any], key: str) -> str | None:
    value = alert.get(key)
    if value is None or isinstance(value, str):
        return value
    raise EventError(f"`{key}` must be a string")


def _tags(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if type(value) is list:
        for tag in value:
            if type(tag) is not str:
                break
        else:
            return tuple(value)
    raise EventError("`tags` must be a list of strings")
