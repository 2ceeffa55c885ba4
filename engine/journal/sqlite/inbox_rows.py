"""What was accepted, as rows: made in the thread of whoever brings it, not in the one that writes."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import msgspec

from engine.journal import codec
from engine.journal.sqlite.bloom_filter import brief
from engine.model import json_codec
from engine.model.event_subject import namespace_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.journal.protocol import AcceptBatch
    from engine.model.playbook import Playbook

TOGETHER = 50
"""Runs of a row; a body may have thousands."""
WAITING = 512
"""Bytes of a run that waits to enter, with room to spare: 225 were measured."""
PROMISED = 3_072
"""Bytes that a run may yet take until it is over. Measured: 80 as it enters, 170 with an end of 60 characters,
1,300 where it is a label that can be undone, whose call, undoing and hold are kept; a policy is larger."""


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """A run as it waits to enter the lanes.

    event: which of its body's. pool, timeout: of its first step, None where it has none.
    """

    id: str
    event: int
    playbook: str
    digest: str
    blob: str
    target: str
    namespace: str | None
    received: float
    due_at: float
    pool: str | None
    timeout: float | None


class InboxBatch(msgspec.Struct, frozen=True, eq=False):
    """Runs that were accepted as one. bodies: the events, as rows; rows: of the runs.

    need: bytes that all of it may take until it is over.

    A struct, for there is one at every accept, and a frozen dataclass takes longer to make.
    """

    bodies: list[tuple[bytes, float]]
    ids: array[int]
    rows: list[tuple[bytes, int, int]]
    snapshots: dict[str, bytes]
    need: int


decoded = msgspec.json.Decoder(list[Entry]).decode
"""The runs of a row."""


def inbox_batch(accepted: AcceptBatch, now: float) -> InboxBatch:
    """What was accepted, as rows; made in the caller's thread, not in the writer's."""
    places: dict[int, int] = {}
    bodies: list[tuple[bytes, float]] = []
    snapshots = {}
    waiting = []
    for run in accepted.runs:
        place = places.setdefault(id(run.event), len(bodies))
        if place == len(bodies):
            bodies.append((codec.from_event(run.event, run.trace), run.received))
        playbook = run.playbook
        snapshots[playbook.digest] = playbook.snapshot
        pool, timeout = _first(playbook)
        namespace = namespace_of(run.event)
        waiting.append(
            Entry(
                run.id, place, playbook.name, playbook.digest, playbook.blob, run.target, namespace,
                run.received, now, pool, timeout,
            )
        )  # fmt: skip
    parts = [waiting[at : at + TOGETHER] for at in range(0, len(waiting), TOGETHER)]
    return InboxBatch(
        bodies,
        array("Q", [brief(entry.id) for entry in waiting]),
        [(json_codec.encode_json(p), len(p), int(any(e.pool == "slow" for e in p))) for p in parts],
        snapshots,
        _need(bodies, len(waiting)),
    )


def _need(bodies: Sequence[tuple[bytes, float]], runs: int) -> int:
    """Bytes that may be taken until all is over: one body may have a page of which it fills half."""
    return 2 * sum(len(body) for body, _ in bodies) + (WAITING + PROMISED) * runs


def _first(playbook: Playbook) -> tuple[str | None, float | None]:
    step = playbook.steps[0] if playbook.steps else None
    return (step.pool, step.timeout) if step else (None, None)
