"""The journal's protocol and its law; every journal passes tests/contracts/journal.

The law:

1. What ``accept`` has answered survives a power cut: it is on disk, not in a cache.
2. ``due_at`` is the whole scheduler: a claim moves it to the end of the lease, a retry to the end of the
   wait; without one a run is out of the queue. A dead worker needs no clean-up.
3. A claim is a fence: only the newest one of a run can keep, settle or lengthen anything.
4. A run accepted twice is one run.
5. Two claims on one target never overlap; ready runs on it start in order of acceptance, then of playbook
   name; one that waits for a retry lets later ones pass; different targets go side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from concurrent.futures import Future

    from engine.model.calls import ObjectChange
    from engine.model.playbook import Pool
    from engine.model.run import Claim, Notice, Outcome, Run, StepResult


@dataclass(frozen=True, slots=True)
class AcceptBatch:
    """What some bodies of events add: runs, and changes to the memory that throttles keep.

    runs: in the order in which those of one target start. memory: key -> JSON value, or None to forget the key.
    """

    runs: Sequence[Run] = ()
    memory: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as the journal has it.

    results: of the steps that ended; last, where the current step was tried, its own as ``waiting`` or
    ``running`` with what the last attempt said. due_at: epoch seconds, None once the run is over.
    outcome: None until then. decisions: what people did to the run, the oldest first.
    """

    run: Run
    results: tuple[StepResult, ...]
    position: int | None
    attempt: int
    due_at: float | None
    outcome: str | None
    undo: Mapping[str, float | None] = field(default_factory=dict)
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list, the newest first; None is any.

    since: epoch seconds of the receipt. state: waiting, running, held, or an outcome.
    """

    playbook: str | None = None
    namespace: str | None = None
    since: float | None = None
    state: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person did to a run.

    what: approve, deny, retry or undo. at: epoch seconds. step: the steps that it concerns, as text.
    """

    what: str
    by: str
    at: float
    reason: str = ""
    step: str = ""


@dataclass(frozen=True, slots=True)
class Paused:
    """Who paused a playbook, or all, when, and until when (epoch seconds; None: until it is resumed)."""

    by: str
    since: float
    until: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What came and was no event: when (epoch seconds), from which source, why, its first bytes."""

    received: float
    source: str
    error: str
    body: bytes


@dataclass(frozen=True, slots=True)
class DroppedRuns:
    """How often a playbook's runs were suppressed for a reason, within an hour of the clock.

    key: what the throttle counts by, else empty. first, last: epoch seconds.
    """

    playbook: str
    reason: str
    key: str
    count: int
    first: float
    last: float


class Journal(Protocol):
    """Where runs live from their acceptance on. Thread-safe; times are epoch seconds."""

    def accept(self, accepted: AcceptBatch, now: float) -> Future[None]:
        """Write runs, due at once, and memory, in one transaction with whatever else waits.

        The future resolves once all of it is on disk; it fails with JournalError where nothing of it is.
        A journal that is full refuses runs so early that those it has can be worked off, and pruned.
        An Accepted without content resolves once all that was accepted before it is on disk.
        """
        ...

    def known(self, ids: Collection[str]) -> set[str]:
        """Which of these run ids are on disk."""
        ...

    def claim(self, pool: Pool, limit: int, now: float) -> list[Claim]:
        """Up to ``limit`` attempts that may start now, leased until their step's timeout and a margin.

        The claims are on disk when this returns. A claim whose predecessor's lease ran out without a word
        is ``interrupted``.
        """
        ...

    def keep(self, claim: Claim, facts: Mapping[str, Any], notice: Notice | None = None) -> bool:
        """Add facts to the run, and accept the run of a notice with them; on disk when this returns.

        False, and nothing written, where the claim is no longer the newest, or where a later ``claim``
        saw that its lease had run out: another run may be on the target by now.
        """
        ...

    def hold(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        facts: Mapping[str, Any],
    ) -> bool:
        """Keep facts, and what the step is about to change, to be undone at ``until`` (None: when asked).

        On disk when this returns. What others hold already keeps the value that was there before the first.
        False, and nothing written, where ``keep`` would.
        """
        ...

    def ends(self, key: str, but: str | None = None) -> list[float | None]:
        """When the holds on a changed thing end, but that of one undoing; None is when asked."""
        ...

    def undo(self, run_id: str, decision: Decision) -> list[str]:
        """Have every step of a run that can be undone be undone now; their names."""
        ...

    def adopt(
        self,
        run: Run,
        step: str,
        changes: Sequence[ObjectChange],
        until: float | None,
        *,
        now: float,
    ) -> bool:
        """Take over what was found in the cluster: these changes are a step's of the run.

        A run that is not there is written as over now, whenever it was. False, and nothing written, where the
        first of the changes is held already.
        """
        ...

    def settle(self, claim: Claim, outcome: Outcome, now: float) -> str | None:
        """Write how the attempt ended and what is next: a retry, the next step, the end of the run.

        Gives ``waiting``, ``next`` or the run's outcome (of an undoing: ``waiting``, ``undone`` or
        ``failed``), on disk when this returns; None where the claim is no longer the newest, and then
        nothing is written.
        """
        ...

    def next_due(self, pool: Pool) -> float | None:
        """When to look for claims again: the time at which the earliest run of the pool is due, or None.

        A run that is due but behind another on its target does not count until that one makes way.
        """
        ...

    def find(self, run_id: str) -> RunRecord | None:
        """The run of that id, as it stands."""
        ...

    def ids(self, prefix: str) -> list[str]:
        """The ids of up to three runs that begin so."""
        ...

    def counts(self) -> dict[str, int]:
        """How many runs are ``waiting``, ``running`` and ``held``, and how many ``over``."""
        ...

    def runs(self, wanted: RunFilter) -> list[RunRecord]:
        """The runs that are wanted, the newest first."""
        ...

    def decide(self, run_id: str, decision: Decision) -> bool:
        """Have a held run go on now, with the decision (``approve``, ``deny``) among its facts.

        False, and nothing written, where the run is not held.
        """
        ...

    def retry(self, run_id: str, position: int, decision: Decision) -> bool:
        """Have a run that is over go on at the step of that position, with the results before it.

        False, and nothing written, where it is not over.
        """
        ...

    def pause(self, playbook: str | None, pause: Paused) -> None:
        """Give no claims on the runs of a playbook (None: of any), also after a restart.

        A playbook that is paused already takes the new end and reason.
        """
        ...

    def end_pauses(self, now: float) -> list[str]:
        """End the pauses whose time is over; what they were on."""
        ...

    def resume(self, playbook: str | None) -> None:
        """End the pause of a playbook (None: every pause)."""
        ...

    def paused(self) -> Mapping[str, Paused]:
        """What is paused: the names of playbooks, ``*`` for all."""
        ...

    def note(self, dead: Sequence[DeadLetter], drops: Sequence[DroppedRuns]) -> None:
        """Write dead letters, and add to the counters of drops; both are bounded, the oldest make way."""
        ...

    def dead(self, limit: int) -> list[DeadLetter]:
        """The dead letters, the newest first."""
        ...

    def drops(self, wanted: RunFilter) -> list[DroppedRuns]:
        """The counters of a playbook and a time, the last changed first."""
        ...

    def forget(self, before: float) -> int:
        """Remove some of the runs that were over before, and notes of before; how many runs that was."""
        ...

    def strip(self, before: float) -> int:
        """Take the bodies from some of the runs that were over before; their ids stay ``known``."""
        ...

    def fill(self) -> float:
        """How much of what it may have is in use, or promised to runs that are not over, 0 to 1.

        One that was full accepts again once this has found room.
        """
        ...

    def memory(self) -> dict[str, Any]:
        """All that throttles keep."""
        ...

    def remember(self, memory: Mapping[str, Any]) -> None:
        """Change what throttles keep, outside an accept."""
        ...

    def save_set(self, digest: str, files: Mapping[str, bytes]) -> None:
        """Keep an accepted set of playbook files (path -> content) as the last good one."""
        ...

    def last_set(self) -> tuple[str, dict[str, bytes]] | None:
        """The last good set: its digest and its files."""
        ...

    def writable(self) -> str | None:
        """None while the journal accepts runs, else what is wrong, in a sentence."""
        ...

    def close(self) -> None:
        """Finish what is being written and let go of the file; later calls fail with JournalError."""
        ...


BUDGET_PREFIX = "budget:"
"""How the keys of the windows begin in the journal's memory, where throttles' are, too."""


FILE_OFFSET_PREFIX = "follow:"
"""How the keys of a followed file's offset begin in the journal's memory, where throttles' are, too."""
