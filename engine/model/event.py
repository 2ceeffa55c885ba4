"""A Falco alert as a frozen record: what it says, its identity, whom it is about.

Shapes and spellings are those of Falco 0.30 to 0.44 and of Falcosidekick 2.34, which forwards Falco's JSON
with a ``uuid`` of its own, fresh at every send, and ``source`` spelled ``syscalls``.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgspec

from engine.model.errors import EventError

PRIORITIES = (
    "Emergency", "Alert", "Critical", "Error", "Warning", "Notice", "Informational", "Debug",
)  # fmt: skip
"""Falco's eight names, the most severe first; a priority is an index into them."""

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
"""How bodies begin that are not JSON, and what to do."""
_KEYS = frozenset(
    ("hostname", "output", "output_fields", "priority", "rule", "source", "tags", "time", "uuid")
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000_000
_decode = msgspec.json.Decoder().decode
_canonical = msgspec.json.Encoder(order="deterministic").encode

ASSUMED_TIME_NS = 946_684_800 * _SECOND
"""2000-01-01T00:00:00Z: in previews, the time of an event that has none."""

MAX_DEPTH = 100
"""Levels of lists and objects in a body: what walks an alert may recurse. Falco's own have three."""

ABSENT = (None, "", "<NA>")
"""How Falco and its plugins spell a value that is not there (an empty list is absent, too)."""


class Event(msgspec.Struct, frozen=True, eq=False):  # noqa: PLW1641 - its fields are a dict
    """An alert. It is a struct, because a frozen dataclass takes eight times as long to make.

    Two are equal that say the same, however each was spelled.

    priority: index into PRIORITIES, 0 the most severe, or None. time_ns: nanoseconds since the epoch.
    timed: whether the alert gave its time; one without is never a duplicate. fields: ``output_fields``.
    alert: the whole alert, normalised, for jsonPath. salt: tells untimed events apart. original: the
    identity of the event as it came, where something was taken out of it since.
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
        """Whether both say the same, in however different an alert."""
        return isinstance(other, Event) and _said(self) == _said(other)

    @property
    def alert(self) -> dict[str, Any]:
        """The whole alert, normalised, for jsonPath; made anew each time, for few look beyond the fields."""
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


def _said(event: Event) -> tuple[Any, ...]:
    return tuple(getattr(event, name) for name in Event.__struct_fields__ if name != "sent")


def parse_priority(word: str) -> int | None:
    """The index into PRIORITIES of a priority in any case (``info`` too), or None if it is none."""
    return _PRIORITY.get(word.lower())


def parse_time(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time; digits past the ninth are cut. Raises ValueError."""
    if len(text) == 30 and text[29] == "Z":  # noqa: PLR2004 - Falco's own form
        head, digits = _seconds(text[:20]), text[20:29]
        if head is not None and digits.isascii() and digits.isdecimal():
            return head * _SECOND + int(digits)
    return _any_time_of(text)


def _any_time_of(text: str) -> int:
    found = _TIME.fullmatch(text)
    if not found:
        raise ValueError(text)
    day, clock, fraction, sign, hours, minutes = found.groups()
    since = datetime.fromisoformat(f"{day}T{clock}+00:00") - _EPOCH
    seconds = since.days * 86_400 + since.seconds
    if sign:
        if int(hours) > 23 or int(minutes) > 59:  # noqa: PLR2004 - hours of a day, minutes of an hour
            raise ValueError(text)
        offset = int(hours) * 3600 + int(minutes) * 60
        seconds += -offset if sign == "+" else offset
    return seconds * _SECOND + int((fraction or "0")[:9].ljust(9, "0"))


@lru_cache(1024)  # events come in bursts, and a file of them is in order
def _seconds(head: str) -> int | None:
    """The seconds of a time up to its decimal point, or None where it is none."""
    try:
        return _any_time_of(f"{head}0Z") // _SECOND if head[19] == "." else None
    except ValueError:
        return None


def format_time(ns: int) -> str:
    """RFC 3339 in UTC of nanoseconds since the epoch, without trailing zeros, as Go prints it."""
    seconds, rest = divmod(ns, _SECOND)
    return f"{_day_and_clock(seconds)}.{rest:09d}".rstrip("0").rstrip(".") + "Z"


@lru_cache(1024)  # as above
def _day_and_clock(seconds: int) -> str:
    try:
        text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    except OverflowError:  # an offset can push the first or last day out of the calendar
        text = "0001-01-01T00:00:00" if seconds < 0 else "9999-12-31T23:59:59"
    return text.zfill(19)


def decode_json(body: bytes, start: int = 0) -> Any:
    """The JSON value of a body. Raises EventError: not JSON, not UTF-8, nested too deep.

    start: the position of the body within what the sender sent; errors give positions in that.
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
    # an alert has two braces, which are quickly found, and some brackets, which are counted
    opened, at = body.count(b"["), body.find(b"{")
    while at >= 0 and opened <= MAX_DEPTH:
        opened, at = opened + 1, body.find(b"{", at + 1)
    if opened > MAX_DEPTH and _is_deep(value):
        raise EventError("nested too deep", "send a Falco alert")
    return value


def _undecodable(body: bytes, error: UnicodeDecodeError) -> int:
    """The position of the first byte that is not UTF-8; msgspec counts from the string's own beginning."""
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return wrong.start
    return error.start


def _reason(body: bytes, what: str, start: int) -> str:
    """The sentence of msgspec with positions that count from the start, and without its paths."""
    half = _HALF.search(body)
    if half:
        return f"half of a surrogate pair: a string was cut within a character (byte {start + half.start()})"
    said = what.removeprefix("JSON is malformed: ").partition(" - at `$")[0]
    return _BYTE.sub(lambda found: f"(byte {start + int(found[1])})", said)


def _hint(body: bytes) -> str:
    """What to send in place of a body that is not JSON, by how it begins."""
    for beginning, hint in _HINTS:
        if beginning.match(body):
            return hint
    return "send one alert, an array, or one alert per line, as JSON in UTF-8"


def _is_deep(value: Any) -> bool:
    """Whether lists and objects stand within one another more than MAX_DEPTH levels deep."""
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
    """The event that a decoded alert is. Raises EventError with a sentence for the sender.

    received_ns: taken where the alert gives no time. salt: any text unlike that of other events.
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
    if not source or source == "syscalls":  # Falcosidekick's spelling where Falco gave none
        source = "syscall"
    return Event(
        rule, priority, time_ns, timed, source, hostname or None, _tags(get("tags")), output or "",
        fields, alert, "" if timed else salt,
    )  # fmt: skip


def identity(event: Event) -> str:
    """32 hex digits that name the event: the same however often and through whatever it is sent.

    Falcosidekick's ``uuid`` and the ``evt.time*`` fields, which tell the same time in formats that depend
    on Falco's settings, are left out.
    """
    if event.original:
        return event.original
    fields = event.fields
    for key in fields:
        if key.startswith("evt.time"):
            fields = {k: v for k, v in fields.items() if not k.startswith("evt.time")}
            break
    time: int | str = event.time_ns if event.timed else event.salt
    told = _canonical([event.hostname, event.rule, event.source, time, fields])
    return hashlib.sha256(told).hexdigest()[:32]


def is_present(value: Any) -> bool:
    """Whether a value of an alert is there at all."""
    if isinstance(value, (list, dict)):
        return value != []
    return value not in ABSENT


def _lowered(value: dict[str, Any]) -> dict[str, Any]:
    """The alert with top-level keys in lower case; of a key written twice the last counts."""
    return {key.lower(): item for key, item in value.items()}


def _priority(word: Any) -> int | None:
    if word is None:
        return None
    number = parse_priority(word) if isinstance(word, str) else None
    if number is None:
        raise EventError("`priority` is none of Falco's", ", ".join(PRIORITIES))
    return number


def _stamped(stamp: Any) -> int:
    if type(stamp) is not str:
        raise EventError("`time` must be a string")
    try:
        return parse_time(stamp)
    except ValueError:
        raise EventError("`time` is no RFC 3339 time", "like 2026-03-01T10:00:00.5Z") from None


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
