"""What an author wrote, compiled: frozen records whose predicates are ready to call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.model.errors import Location
    from engine.model.event import Event

Truth = bool | None
"""True, False or, where a value is absent or of another type, unknown (None)."""

Mode = Literal["enforce", "notify", "dryRun", "disabled"]
Phase = Literal["actions", "finally"]
Pool = Literal["cluster", "slow"]


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on the event: its source text, for messages, and its predicate.

    equality: a field and the only texts with which the condition can hold, where it is that plain. look:
    the value that it looks at; a ``group`` (all, any, not) has ``parts`` instead. key: conditions of one
    key have the same truth on every event; "" is unlike any other.
    """

    text: str
    holds: Callable[[Event], Truth]
    equality: tuple[str, frozenset[str]] | None = None
    look: Callable[[Event], Any] | None = None
    group: str = ""
    parts: tuple[Condition, ...] = ()
    key: str = ""


@dataclass(frozen=True, slots=True)
class StepCondition:
    """A condition on how an earlier step ended, or on the answer it got."""

    text: str
    step: str
    states: tuple[str, ...] = ()
    on_answer: Callable[[Any], Truth] | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how soon a step is tried again; all times in seconds.

    attempts: answers that are taken, from 1. delay: before the second attempt; doubles each time up to
    max_delay. give_up: after which a notification that got no answer fails. unknown: whether a step that
    is not repeatable is done again when nobody knows if it was done.
    """

    attempts: int = 4
    delay: float = 1.0
    max_delay: float = 60.0
    give_up: float = 3600.0
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a playbook.

    parameters: name -> compiled parameter, as the action's signature gives them; rendered at each attempt.
    timeout: of one attempt, in seconds.
    """

    name: str
    action: str
    parameters: Mapping[str, Any]
    phase: Phase = "actions"
    pool: Pool = "cluster"
    effect: str = "disrupt"
    timeout: float = 30.0
    retry: Retry = Retry()
    on_failure: Literal["stop", "continue"] = "stop"
    when: tuple[Condition | StepCondition, ...] = ()


@dataclass(frozen=True, slots=True)
class Throttle:
    """How many of the matching events act.

    text: canonical, part of the memory's key. within: seconds of the sliding window.
    first: how many events act within any window. None for a throttle that counts instead: of ``count``
    events within a window the last one acts, and counting starts again.
    key: names of output fields, or None for rule, namespace and pod.
    """

    text: str
    within: float
    first: int | None = None
    count: int = 0
    key: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """The keys of ``match``; None is a key not given. ``priority``: 0 is Emergency, 7 Debug."""

    rules: tuple[str, ...] | None = None
    priority: int | None = None
    sources: frozenset[str] | None = None
    tags_any: frozenset[str] | None = None
    tags_all: frozenset[str] | None = None
    tags_none: frozenset[str] | None = None
    hostnames: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Playbook:
    """A playbook, compiled.

    snapshot: the document after values were put in, as canonical JSON; from it the steps of a run that
    waits are made again, whatever the folder says by then. digest: its SHA-256, hex. blob: the Git blob id
    of the file it came from.
    """

    name: str
    match: Match
    steps: tuple[Step, ...]
    conditions: tuple[Condition, ...] = ()
    mode: Mode = "enforce"
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    throttle: Throttle | None = None
    snapshot: bytes = b""
    digest: str = ""
    blob: str = ""
    where: Location | None = None


@dataclass(frozen=True, slots=True)
class Silence:
    """Events that run nothing for a while.

    until_ns: nanoseconds since the epoch; it holds for events whose time is before. owner: whom to ask.
    """

    name: str
    match: Match
    until_ns: int
    owner: str
    comment: str
    conditions: tuple[Condition, ...] = ()
    where: Location | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """How many targets the steps of one effect may have within a sliding window.

    limit: targets, from 1. per: seconds. actions, playbooks: globs of the names that it counts, None for all.
    on_exceeded: what becomes of the rest, None where the guardrails decide.
    """

    effect: str
    limit: int
    per: float
    scope: Literal["namespace", "cluster", "owner", "playbook"]
    actions: tuple[str, ...] | None = None
    on_exceeded: Literal["hold", "drop", "digest"] | None = None
    playbooks: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Guardrails:
    """What no playbook may do. Without a document, the floor of the contract.

    namespaces: exact names or globs. labels: name -> value; on the Namespace or Node they protect.
    trust_pods_in: namespaces, exact or globs, whose pods may protect themselves. max_event_age, hold_for:
    seconds. on_held: the steps that notify people of a hold, as canonical JSON; empty without any.
    """

    namespaces: tuple[str, ...] = ("kube-system", "kube-public", "kube-node-lease")
    labels: tuple[tuple[str, str], ...] = (("tiercel.dev/protected", "true"),)
    trust_pods_in: tuple[str, ...] = ()
    budgets: tuple[Budget, ...] = (
        Budget("disrupt", 5, 600.0, "namespace"),
        Budget("disrupt", 20, 600.0, "cluster"),
        Budget("disrupt", 5, 600.0, "owner"),
        Budget("notify", 20, 60.0, "playbook", on_exceeded="digest"),
    )
    max_event_age: float = 300.0
    on_exceeded: Literal["hold", "drop"] = "hold"
    hold_for: float = 14_400.0
    on_held: bytes = b""


ALL_PLAYBOOKS = "*"
"""Among the paused: every playbook; none can have this name."""
