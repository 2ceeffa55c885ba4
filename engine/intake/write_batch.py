"""What a group of bodies came to, on its way to the disk: written as one, told to whoever waits, or taken back.

What matched is on disk before anything is answered, because no sender of Falco's events sends twice.
"""

from __future__ import annotations

import itertools
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec

from engine.journal.protocol import AcceptBatch
from engine.model.errors import JournalError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from engine.intake.planning_state import Changed, IntakeJournal, PlanningState
    from engine.model.run import Run
    from engine.planning.planner import PlannedRun


class Taken(msgspec.Struct, eq=False):
    """What a body came to. failed: why nothing of it was taken: EventError, TooManyError or the journal's.

    waits: whether it is only known once what its group wrote is on disk; until then ``failed`` may come.
    kept: whether some of it is on disk, also if it failed later.

    A struct, for there is one at every body, and a dataclass takes longer to make.
    """

    accepted: int = 0
    duplicates: int = 0
    runs: list[str] = msgspec.field(default_factory=list)
    errors: list[dict[str, Any]] = msgspec.field(default_factory=list)
    ended: dict[str, int] = msgspec.field(default_factory=dict)
    failed: BaseException | None = None
    waits: bool = False
    kept: bool = False

    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        return {
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "runs": self.runs,
            "errors": self.errors,
        }


class Part(msgspec.Struct, eq=False):
    """What is to be written of one body. after: the parts of which it repeats runs, still being written.

    written: resolves once all of the group is.
    """

    taken: Taken
    planned: list[PlannedRun]
    new: list[Run]
    changed: Changed
    after: list[Part]
    written: Future[None]


class Writing:
    """Writes parts, and knows which runs are on their way; thread-safe. memory: what is taken back there.

    lock: held by whoever plans, and plans nothing that a failed write takes back meanwhile.
    """

    def __init__(
        self, journal: IntakeJournal, memory: PlanningState, lock: threading.RLock
    ) -> None:
        self._journal, self._memory, self._lock = journal, memory, lock
        self._owed: dict[str, Any] = {}
        self._under_way: dict[str, Part] = {}

    def of(self, run: str) -> Part | None:
        """The part of which a run is being written, by its id."""
        return self._under_way.get(run)

    def expect(self, part: Part) -> None:
        """A part will be written, with others."""
        for run in part.new:
            self._under_way[run.id] = part

    def give_back(self, run: str) -> None:
        """Give the throttle's slot back of a run, by its id, that came to nothing."""
        with self._lock:
            self._memory.release(run)
            changes = self._owed | self._memory.taken().changes
            self._owed = {}
        if not changes:
            return
        try:
            self._journal.save_key_values(changes)
        except JournalError:  # with the next event that is written
            with self._lock:
                self._owed = changes | self._owed

    def begin(self, parts: list[Part], received: float, written: Future[None]) -> None:
        """Write what a group came to; ``written`` resolves once all of it is decided."""
        written.set_running_or_notify_cancel()
        writes = [part for part in parts if part.new or part.changed.changes]
        others = {first.written for part in parts for first in part.after} - {written}

        def end() -> None:
            for part in parts:
                wrong = [f.taken.failed for f in part.after if f.taken.failed is not None]
                if wrong and part.taken.failed is None:
                    part.taken.failed = wrong[0]
            written.set_result(None)

        ended = _at_the_last(bool(writes) + len(others), end)
        if writes:
            self._write(writes, received, ended)
        for other in others:
            other.add_done_callback(ended)
        if not writes and not others:
            end()

    def _write(self, parts: list[Part], received: float, ended: Callable[..., None]) -> None:
        """Write parts as one; where that fails, each by itself, lest one cost the others theirs."""
        owed, self._owed = self._owed, {}
        memory = owed
        for part in parts:
            memory = memory | part.changed.changes

        def end(done: Future[None]) -> None:
            error = done.exception()
            if error is not None and len(parts) > 1:
                self._each(parts, owed, received, ended)
                return
            try:
                if error is None:
                    self._keep(parts)
                else:
                    self._lose(parts[0], owed, error)
            finally:
                ended()  # whatever happens: somebody waits for it, and others for him

        try:
            runs = [run for part in parts for run in part.new]
            written = self._journal.accept(AcceptBatch(runs, memory), received)
        except Exception as error:  # noqa: BLE001 - a bug, told with the answer: it costs one body alone
            written = Future()
            written.set_exception(error)
        written.add_done_callback(end)

    def _keep(self, parts: list[Part]) -> None:
        """They are on disk. Without the lock: the writer would wait for whoever plans."""
        for part in parts:
            part.taken.kept = True
            for run in part.new:
                self._under_way.pop(run.id, None)
                self._memory.written(run.id)

    def _each(
        self,
        parts: list[Part],
        owed: dict[str, Any],
        received: float,
        ended: Callable[..., None],
    ) -> None:
        each = _at_the_last(len(parts), ended)
        with self._lock:
            self._owed = owed | self._owed
            for part in parts:
                self._write([part], received, each)

    def _lose(self, part: Part, owed: dict[str, Any], error: BaseException) -> None:
        part.taken.failed = error
        with self._lock:
            self._owed = owed | self._owed
            for run in part.new:
                self._under_way.pop(run.id, None)
            self.forget(part.planned, part.changed)

    def forget(self, planned: list[PlannedRun], changed: Changed) -> None:
        """What was not written was not seen: sent again, it is new."""
        self._memory.restore(changed)
        for one in planned:
            if one.suppressed != "duplicate":
                self._memory.forget(one.run.id)
        # of windows that others have changed since, a slot was given back: the disk must hear of it
        self._owed |= self._memory.taken().changes


def _at_the_last(many: int, do: Callable[[], None]) -> Callable[..., None]:
    """What does it at the last of so many calls, from whichever threads."""
    count = itertools.count(1)  # counting is one step for the interpreter

    def call(*_: Any) -> None:
        if next(count) == many:
            do()

    return call
