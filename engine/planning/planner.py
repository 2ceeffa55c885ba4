"""From an event to planned runs: a pure function of the event, the playbooks and a memory. It does no I/O."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec

from engine.model.event import identity
from engine.model.event_subject import target_queue
from engine.model.playbook import ALL_PLAYBOOKS
from engine.model.run import Run, run_id
from engine.planning.own_commands import OwnCommands
from engine.planning.throttle import ThrottleWindows, window_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.model.event import Event
    from engine.model.playbook import Playbook
    from engine.planning.matcher import PlaybookIndex

MAX_CLOCK_SKEW = 300.0
"""Seconds between an event's time and its receipt. If it is more, the time of receipt is used."""
_MAX_RUNS = 100_000


class PlannedRun(msgspec.Struct, frozen=True):
    """The run that a playbook starts for an event, or why it does not start.

    suppressed: why no step runs (``duplicate``, ``throttle``, …), None if the run starts.
    ran: for a duplicate, whether the first run started.
    """

    run: Run
    suppressed: str | None = None
    ran: bool = False


class PlanningMemory(ThrottleWindows):
    """The state between events: throttle windows, the last 100,000 planned runs, and pauses.

    Attributes:
        paused: names of paused playbooks; ``*`` pauses all.
        own_user: the engine's user name in the API server's audit log. Events that the engine itself
            caused start nothing.
        own_commands: the containers in which the engine runs a command.
        is_secret: whether a value must not be stored as it is.

    """

    def __init__(self, windows: Mapping[str, Any] | None = None) -> None:
        super().__init__(windows)
        self.paused: frozenset[str] = frozenset()
        self.own_user: str | None = None
        self.own_commands = OwnCommands()
        self.is_secret: Callable[[Any], bool] | None = None
        self._seen: OrderedDict[str, bool] = OrderedDict()

    def seen(self, run: str) -> bool | None:
        """Return whether an earlier run of this id started, or None if the run was not planned before."""
        return self._seen.get(run)

    def remember(self, run: str, *, ran: bool) -> None:
        """Remember a planned run."""
        self._seen[run] = ran
        if len(self._seen) > _MAX_RUNS:
            self._seen.popitem(last=False)

    def forget(self, run: str) -> None:
        """Forget a run that could not be written to the journal, and release its throttle."""
        self._seen.pop(run, None)
        self.release(run)


def plan(
    event: Event, playbooks: PlaybookIndex, memory: PlanningMemory, received: float | None = None
) -> tuple[PlannedRun, ...]:
    """Return a planned run for each playbook that matches the event, in the order of their names.

    received: epoch seconds of the receipt. Without it, as in previews, the clock is the event's time.
    The clock of the throttles is never later than the receipt. Otherwise one event with a fast clock
    would start all windows in the future.
    """
    matching = playbooks.matching(event)
    if not matching:
        return ()
    time_ns = event.time_ns
    if received is not None and abs(event.time - received) > MAX_CLOCK_SKEW:
        time_ns = int(received * 1e9)
    time = time_ns // 1_000 / 1e6  # rounded down, so that nothing acts before its window has passed
    memory.clock = max(memory.clock, time if received is None else min(time, received))
    silence = playbooks.silence(event, time_ns)
    context = _EventContext(
        event,
        identity(event),
        event.time if received is None else received,
        silence,
        playbooks.revision,
    )
    return tuple(_plan_playbook(context, playbook, memory) for playbook in matching)


class _EventContext(msgspec.Struct, frozen=True):
    """The values that are the same for all matching playbooks.

    silence: its name, if one matches. revision: of the set of playbooks.
    """

    event: Event
    identity: str
    received: float
    silence: str | None
    revision: str


def _is_own(event: Event, memory: PlanningMemory) -> bool:
    """Whether the engine itself caused the event."""
    user = memory.own_user
    is_own_call = user is not None and event.fields.get("ka.user.name") == user
    return is_own_call or memory.own_commands.caused(event)


def _plan_playbook(
    context: _EventContext, playbook: Playbook, memory: PlanningMemory
) -> PlannedRun:
    event = context.event
    id_ = run_id(context.identity, playbook.name)
    run = Run(
        id_, playbook, event, context.received, target_queue(event, id_), revision=context.revision
    )
    before = memory.seen(id_)
    if before is not None:
        return PlannedRun(run, "duplicate", ran=before)
    suppressed = None
    throttle = playbook.throttle
    if _is_own(event, memory):
        suppressed = "self"
    elif playbook.mode == "disabled":
        suppressed = "mode: disabled"
    elif context.silence is not None:
        suppressed = f"silence: {context.silence}"
    elif throttle and not memory.acquire(
        window_key(event, playbook, throttle, memory.is_secret), throttle, id_
    ):
        suppressed = "throttle"
    elif memory.paused and not memory.paused.isdisjoint((playbook.name, ALL_PLAYBOOKS)):
        suppressed = "paused"
        memory.release(id_)
    memory.remember(id_, ran=suppressed is None)
    return PlannedRun(run, suppressed)
