"""Convert records to the JSON of database columns and back."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from engine.model.calls import Call, OutboundRequest
from engine.model.errors import JournalError, PlaybookError
from engine.model.event import parse_event
from engine.model.json_codec import encode_json
from engine.model.run import StepResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.model.event import Event
    from engine.model.run import Claim, Outcome

_decoder = msgspec.json.Decoder()
_file_decoder = msgspec.json.Decoder(dict[str, bytes])


class UnreadableError(JournalError):
    """A row is corrupt, or another version of the engine wrote it. A retry does not help."""


def decode(raw: bytes) -> Any:
    """Decode a JSON column. Integers have any size. Raises ValueError if the JSON is not valid."""
    return _decoder.decode(raw)


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Raise UnreadableError in place of every error that an unreadable row causes.

    name: what the row contains, for the message.
    """
    try:
        yield
    except (PlaybookError, KeyError, TypeError, ValueError) as error:
        raise UnreadableError(f"run {name} cannot be read by this engine: {error}") from error


def from_event(event: Event, trace: str = "") -> bytes:
    """Encode an event: the alert as received, from which ``to_event`` builds an equal event.

    The time is a separate value, because an alert can lack a time. trace: the ``traceparent``, or "".
    """
    row = {"alert": event.sent, "time_ns": event.time_ns, "salt": event.salt}
    if event.original:
        row["original"] = event.original
    return encode_json(row | {"trace": trace} if trace else row)


def to_event(raw: bytes) -> tuple[Event, str]:
    """Decode an event and its ``traceparent``. The event is equal to the one that was encoded."""
    row = decode(raw)
    event = parse_event(row["alert"], received_ns=row["time_ns"], salt=row["salt"])
    if event.time_ns != row["time_ns"]:
        event = msgspec.structs.replace(event, time_ns=row["time_ns"])
    if "original" in row:
        event = msgspec.structs.replace(event, original=row["original"])
    return event, row.get("trace", "")


def to_result(row: dict[str, Any]) -> StepResult:
    """Build the result of a step from its decoded JSON.

    msgspec cannot convert the JSON, because the types of the fields are not importable at run time.
    """
    calls = tuple(Call(**call) for call in row["calls"])
    requests = tuple(OutboundRequest(**request) for request in row["requests"])
    return StepResult(**{**row, "calls": calls, "requests": requests})


def to_results(raw: bytes) -> tuple[StepResult, ...]:
    """Decode the results of a run, in the order of the steps."""
    return tuple(to_result(row) for row in decode(raw))


def from_results(results: Sequence[StepResult]) -> bytes:
    """Encode the results of a run."""
    return encode_json(tuple(results))


def attempted(claim: Claim, outcome: Outcome) -> StepResult:
    """Return the result of a step that waits for a retry or for an approval."""
    return StepResult(
        step=claim.step.name,
        state="held" if outcome.state == "held" else "waiting",
        message=outcome.message,
        attempts=claim.attempt,
        calls=outcome.calls,
        requests=outcome.requests,
        answer=outcome.answer,
    )


def to_files(raw: bytes) -> dict[str, bytes]:
    """Decode a set of files: path -> content. Raises ValueError if the row is corrupt."""
    return _file_decoder.decode(raw)
