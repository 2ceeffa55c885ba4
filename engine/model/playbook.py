"""Compiled playbooks, silences and guardrails: frozen records with predicates that are ready to call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.model.errors import Location
    from engine.model.event import Event

Truth = bool | None
"""True, False, or None (unknown) if a value is absent or has another type."""

Mode = Literal["enforce", "notify", "dryRun", "disabled"]
Phase = Literal["actions", "finally"]
Pool = Literal["cluster", "slow"]


class Condition(msgspec.Struct, frozen=True):
    """A condition on the event.

    Attributes:
        text: the source text, for messages.
        holds: the predicate.
        equality: a field and the only texts for which the condition can be true, or None for
            conditions that are not a plain equality.
        look: return the value that is compared. None for a group.
        group: ``all``, ``any`` or ``not``, with its conditions in ``parts``; otherwise "".
        key: conditions with the same key have the same truth for every event. "" equals no other key.

    """

    text: str
    holds: Callable[[Event], Truth]
    equality: tuple[str, frozenset[str]] | None = None
    look: Callable[[Event], Any] | None = None
    group: str = ""
    parts: tuple[Condition, ...] = ()
    key: str = ""


class StepCondition(msgspec.Struct, frozen=True):
    """A condition on the state of an earlier step, or on the answer that it received."""

    text: str
    step: str
    states: tuple[str, ...] = ()
    on_answer: Callable[[Any], Truth] | None = None


class Retry(msgspec.Struct, frozen=True):
    """When a step is retried. All times are seconds.

    Attributes:
        attempts: number of answers after which the step fails, from 1.
        delay: wait before the second attempt. It doubles each time, up to max_delay.
        give_up: time after which a notification without an answer fails.
        unknown: whether to repeat a step that is not repeatable if its outcome is not known.

    """

    attempts: int = 4
    delay: float = 1.0
    max_delay: float = 60.0
    give_up: float = 3600.0
    unknown: bool = False


class Step(msgspec.Struct, frozen=True):
    """A step of a playbook.

    parameters: name -> compiled parameter; rendered at each attempt. timeout: seconds of one attempt.
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


class Throttle(msgspec.Struct, frozen=True):
    """A limit on the matching events that start a run.

    Attributes:
        text: canonical text, part of the window's key.
        within: seconds of the sliding window.
        first: number of events that start a run within a window; None if ``count`` is used.
        count: the last of so many events within a window starts a run. Then counting starts again.
        key: names of output fields, or None for rule, namespace and pod.

    """

    text: str
    within: float
    first: int | None = None
    count: int = 0
    key: tuple[str, ...] | None = None


class Match(msgspec.Struct, frozen=True):
    """The keys of ``match``. None is a key that is not given. ``priority``: 0 is Emergency, 7 is Debug."""

    rules: tuple[str, ...] | None = None
    priority: int | None = None
    sources: frozenset[str] | None = None
    tags_any: frozenset[str] | None = None
    tags_all: frozenset[str] | None = None
    tags_none: frozenset[str] | None = None
    hostnames: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Playbook:
    """A compiled playbook.

    Attributes:
        snapshot: the document with its values, as canonical JSON. The steps of a waiting run are
            compiled from it again, so that changes in the folder do not affect the run.
        digest: SHA-256 of the snapshot, in hex.
        blob: Git blob id of its file.
        run_as: name of the ServiceAccount whose rights the calls of the steps have; "" for the engine's own.

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
    run_as: str = ""
    where: Location | None = None


class Silence(msgspec.Struct, frozen=True):
    """Events that start no run until a given time.

    until_ns: nanoseconds since the epoch. Events with an earlier time are silenced. owner: the person to
    ask about the silence.
    """

    name: str
    match: Match
    until_ns: int
    owner: str
    comment: str
    conditions: tuple[Condition, ...] = ()
    where: Location | None = None


class Budget(msgspec.Struct, frozen=True):
    """The number of targets that steps of one effect may have within a sliding window.

    Attributes:
        limit: number of targets, from 1.
        per: seconds of the window.
        actions: globs of the actions that count, None for all.
        playbooks: globs of the playbooks that count, None for all.
        on_exceeded: what happens to further steps, None for the setting of the guardrails.

    """

    effect: str
    limit: int
    per: float
    scope: Literal["namespace", "cluster", "owner", "playbook"]
    actions: tuple[str, ...] | None = None
    on_exceeded: Literal["hold", "drop", "digest"] | None = None
    playbooks: tuple[str, ...] | None = None


class Guardrails(msgspec.Struct, frozen=True):
    """Limits for all playbooks. The defaults are those of a folder without a Guardrails document.

    Attributes:
        namespaces: protected namespaces: names or globs.
        labels: name and value of labels that protect a Namespace or Node.
        trust_pods_in: namespaces (names or globs) in which the label on a pod protects it, too.
        max_event_age: seconds.
        hold_for: seconds until a held step is denied.
        on_held: the steps that notify people of a hold, as canonical JSON; empty without such steps.

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
"""Stands for every playbook in a pause. A playbook cannot have this name."""
