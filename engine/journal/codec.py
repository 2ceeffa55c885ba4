"""Records as rows: what is kept as JSON, and how it becomes the same record again."""

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
_files = msgspec.json.Decoder(dict[str, bytes])


class UnreadableError(JournalError):
    """A row that another version wrote, or that is broken; no matter of the disk, it stays so."""


def decode(raw: bytes) -> Any:
    """The data of a JSON column; integers of any size. Raises ValueError where it is broken."""
    return _decoder.decode(raw)


@contextlib.contextmanager
def readable(run: str) -> Iterator[None]:
    """Turns whatever a row that this engine cannot read raises into UnreadableError."""
    try:
        yield
    except (PlaybookError, KeyError, TypeError, ValueError) as error:
        raise UnreadableError(f"run {run} cannot be read by this engine: {error}") from error


def from_event(event: Event, trace: str = "") -> bytes:
    """An event as its row: the alert as it was sent, which makes the same event again.

    The time stands beside it, for one that gave none.
    """
    row = {"alert": event.sent, "time_ns": event.time_ns, "salt": event.salt}
    if event.original:
        row["original"] = event.original
    return encode_json(row | {"trace": trace} if trace else row)


def to_event(raw: bytes) -> tuple[Event, str]:
    """The event of a row, equal to the one that was written, and the trace that it belongs to."""
    row = decode(raw)
    event = parse_event(row["alert"], received_ns=row["time_ns"], salt=row["salt"])
    if event.time_ns != row["time_ns"]:
        event = msgspec.structs.replace(event, time_ns=row["time_ns"])
    if "original" in row:
        event = msgspec.structs.replace(event, original=row["original"])
    return event, row.get("trace", "")


def to_result(row: dict[str, Any]) -> StepResult:
    """One result, of its decoded JSON.

    Written out, since the types of those records are no names at run time that msgspec could find.
    """
    calls = tuple(Call(**call) for call in row["calls"])
    requests = tuple(OutboundRequest(**request) for request in row["requests"])
    return StepResult(**{**row, "calls": calls, "requests": requests})


def to_results(raw: bytes) -> tuple[StepResult, ...]:
    """The results of a row, in the order of the steps."""
    return tuple(to_result(row) for row in decode(raw))


def from_results(results: Sequence[StepResult]) -> bytes:
    """Results as a row."""
    return encode_json(tuple(results))


def attempted(claim: Claim, outcome: Outcome) -> StepResult:
    """How a step stands that will be tried again, or waits for a person."""
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
    """Files of a row: path -> content. Raises ValueError where the row is broken."""
    return _files.decode(raw)
