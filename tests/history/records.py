"""What the observers of a history record, independently of each other. Times are epoch seconds of one host."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sent:
    """One request of the sender with one event.

    number: of the event; a repeated event keeps it. replica: which got the request. began, ended: when it was
    sent and answered. status: 0 if no answer came. runs: the ids in the answer.
    """

    number: int
    rule: str
    target: str
    replica: str
    began: float
    ended: float
    status: int
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Effect:
    """One write that a server outside of the engine received, from its own log.

    run: the run that made it, "" if the write does not say so. kind: the part of the object, or ``request``.
    undo: whether it removes the part. process: the replica and its start, as its credentials say. applied: False
    if the server refused it.
    """

    run: str
    kind: str
    target: str
    process: str
    began: float
    ended: float
    undo: bool = False
    applied: bool = True


@dataclass(frozen=True, slots=True)
class QueueEvent:
    """One change of a run in the database, as a trigger saw it.

    place: increases. For one target in the order of the changes, because they lock the target. what: accepted,
    claimed, settled, freed or died. undoes: the run that this one undoes, or None. replica: identity of the
    claim. process: the replica and its start that made the change. live: for ``claimed`` and ``freed`` of a run
    that was leased, whether the lease was in force.
    """

    place: int
    at: float
    what: str
    run: str
    fence: int
    target: str
    undoes: str | None
    replica: int | None
    process: str
    live: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A run in the journal after the end. results: (step, state, message). state: None if it is over."""

    run: str
    playbook: str
    target: str
    state: str | None
    outcome: str | None
    results: tuple[tuple[str, str, str], ...] = ()

    @property
    def may_have_run(self) -> bool:
        """Whether a step says so."""
        return any("may have run" in message for _, _, message in self.results)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. kind: kill, pause, partition or fail-over. process: of the replica, "" for the primary."""

    kind: str
    process: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What the playbooks of a history allow.

    once: rules of which one run may act for each target. few: rule -> targets in each namespace that its runs
    may touch. until: rules whose effects must be undone. spooling: replicas with a spool. What they acknowledge
    can reach the journal later than what another replica acknowledges afterwards.
    """

    once: frozenset[str] = frozenset()
    few: dict[str, int] = field(default_factory=dict)
    until: frozenset[str] = frozenset()
    spooling: frozenset[str] = frozenset()


@dataclass(slots=True)
class History:
    """The records of all observers.

    queue: in the order of the places. undo_intents: ids of the undos with a time that the journal still has.
    left: targets whose object still has a part that must be undone.
    """

    limits: Limits
    sent: list[Sent] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    queue: list[QueueEvent] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    undo_intents: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def records(self) -> list[Sent | Effect | QueueEvent | Row | Fault]:
        """Return all records, to look up what a violation names."""
        return [*self.sent, *self.effects, *self.queue, *self.rows, *self.faults]
