"""The heart: from an event to runs. A pure function of the event, the playbooks and a memory; no I/O."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from engine.model.event import identity, present
from engine.model.event_subject import subject_of, target_queue
from engine.model.playbook import ALL_PLAYBOOKS
from engine.model.run import Run, run_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.model.event import Event
    from engine.model.playbook import Playbook, Throttle
    from engine.planning.matcher import Playbooks

SKEW = 300.0
"""Seconds by which an event's time may differ from its receipt and still count."""
_REMEMBERED = 100_000
_WORDS = ("rule", "source", "hostname")
_ORIGIN = ("container.id", "hostname")
"""What a window also counts by where a field of its key is absent."""


class Planned(msgspec.Struct, frozen=True):
    """One playbook's answer to an event: its run, and why nothing of it runs (None: it runs).

    ran: of a duplicate, whether the first one ran.
    """

    run: Run
    suppressed: str | None = None
    ran: bool = False


class PlanningMemory:
    """What planning remembers: identities, throttle windows, a clock that never goes back, pauses.

    paused: names of playbooks, and ``*`` for all. own: the API server's name of the engine itself, whose
    doings are no events to act on. hidden: whether a value must not be kept as it is. changes: what the
    journal must keep (key -> JSON, None to forget) until it is taken.
    """

    def __init__(self, windows: Mapping[str, Any] | None = None) -> None:
        self.windows = {key: _stored(window) for key, window in (windows or {}).items()}
        self.clock = 0.0
        self.paused: frozenset[str] = frozenset()
        self.own: str | None = None
        self.hidden: Callable[[Any], bool] | None = None
        self.changes: dict[str, Any] = {}
        self._seen: OrderedDict[str, bool] = OrderedDict()
        self._slots: dict[str, str] = {}
        for key, window in self.windows.items():
            self._slots |= dict.fromkeys(_runs(window), key)

    def seen(self, run: str) -> bool | None:
        """Whether the run was planned before: True it ran, False it was suppressed, None never."""
        return self._seen.get(run)

    def note(self, run: str, *, ran: bool) -> None:
        """Remember a run, the last 100,000."""
        self._seen[run] = ran
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)

    def forget(self, run: str) -> None:
        """Forget a run that could not be written, and give its slot back."""
        self._seen.pop(run, None)
        self.give_back(run)

    def take(self, key: str, throttle: Throttle, run: str, time: float) -> bool:
        """Whether the throttle lets the run act at that time of the clock."""
        window = self.windows.get(key) or {}
        take = _counted if throttle.first is None else _acted
        changed, acts = take(window, throttle, run, time)
        if changed is not None:
            self._release(window)
            self._slots |= dict.fromkeys(_runs(changed), key)
            self._change(key, {**changed, "until": time + throttle.within})
        return acts

    def give_back(self, run: str) -> None:
        """Give the slot back of a run of which no step was done, so that the next event acts."""
        key = self._slots.pop(run, None)
        window = self.windows.get(key) if key else None
        if key is None or window is None or run not in _runs(window):
            return
        left: dict[str, Any]
        if "before" in window:
            left = {"stamps": [*window["before"], *window["stamps"]]}
        else:
            left = {"acted": [slot for slot in window["acted"] if slot[1] != run]}
        kept = any(left.values())
        self._change(key, {**left, "until": window["until"]} if kept else None)

    def _release(self, window: dict[str, Any]) -> None:
        for run in _runs(window):
            self._slots.pop(run, None)

    def _change(self, key: str, window: dict[str, Any] | None) -> None:
        self.changes[key] = window
        if window is None:
            self.windows.pop(key, None)
            return
        self.windows.pop(key, None)  # the dict is in order of change
        self.windows[key] = window
        if len(self.windows) > _REMEMBERED:
            self._sweep()

    def _sweep(self) -> None:
        """Forget the windows that are over; where none is, a tenth of them, those untouched for longest.

        An attacker who writes what a throttle counts by makes windows as he likes: memory is bounded.
        """
        gone = [k for k, window in self.windows.items() if window["until"] < self.clock]
        if len(self.windows) - len(gone) > _REMEMBERED * 9 // 10:
            rest = (k for k, window in self.windows.items() if window["until"] >= self.clock)
            gone += islice(rest, _REMEMBERED // 10)
        for key in gone:
            self._release(self.windows.pop(key))
            self.changes[key] = None


def _runs(window: dict[str, Any]) -> list[str]:
    """The runs that a window lets act and that may give their slot back."""
    last = [window["run"]] if "run" in window else []
    return last + [run for _, run in window.get("acted", ())]


def _acted(
    window: dict[str, Any], throttle: Throttle, run: str, time: float
) -> tuple[dict[str, Any] | None, bool]:
    """The changed window of a throttle with ``first``, None if nothing changes; whether the run acts.

    acted: the time and the run of each event that acted within the last ``within`` seconds.
    """
    acted = [slot for slot in window.get("acted", ()) if time - slot[0] < throttle.within]
    if len(acted) >= (throttle.first or 0):
        return None, False
    return {"acted": [*acted, [time, run]]}, True


def _counted(
    window: dict[str, Any], throttle: Throttle, run: str, time: float
) -> tuple[dict[str, Any] | None, bool]:
    """The changed window of a throttle with ``count``; whether the run acts.

    stamps: the times of the events counted since a run acted. before: those counted for that run.
    """
    since = time - throttle.within
    stamps = [*(stamp for stamp in window.get("stamps", ()) if stamp > since), time]
    stamps = stamps[-throttle.count :]
    if len(stamps) >= throttle.count:
        return {"stamps": [], "run": run, "before": stamps[:-1]}, True
    return {**window, "stamps": stamps}, False


def _stored(window: dict[str, Any]) -> dict[str, Any]:
    """A window as this version keeps it. Until 0.3 the window of ``once`` was one run and its time."""
    if "at" not in window or window["stamps"] or window["before"]:
        return window
    return {"acted": [[window["at"], window["run"]]], "until": window["until"]}


def plan(
    event: Event, playbooks: Playbooks, memory: PlanningMemory, received: float | None = None
) -> tuple[Planned, ...]:
    """What each playbook that wants the event does about it, by playbook name.

    received: epoch seconds of the receipt, in the engine; without it (previews) the clock is the event's.
    The clock of throttles is never later than the receipt, or one event with a fast clock would make all
    windows begin in the future.
    """
    wanting = playbooks.wanting(event)
    if not wanting:
        return ()
    time_ns = event.time_ns
    if received is not None and abs(event.time - received) > SKEW:
        time_ns = int(received * 1e9)
    time = time_ns / 1e9
    memory.clock = max(memory.clock, time if received is None else min(time, received))
    silence = playbooks.silence(event, time_ns)
    asked = _Asked(event, identity(event), event.time if received is None else received, silence)
    return tuple(_plan_one(asked, playbook, memory) for playbook in wanting)


class _Asked(msgspec.Struct, frozen=True):
    """What is the same for all playbooks that want an event. silence: the name of one that covers it."""

    event: Event
    identity: str
    received: float
    silence: str | None


def _plan_one(asked: _Asked, playbook: Playbook, memory: PlanningMemory) -> Planned:
    event, received = asked.event, asked.received
    made = run_id(asked.identity, playbook.name)
    run = Run(made, playbook, event, received, target_queue(event, made))
    before = memory.seen(made)
    if before is not None:
        return Planned(run, "duplicate", ran=before)
    suppressed = None
    throttle = playbook.throttle
    if memory.own is not None and event.fields.get("ka.user.name") == memory.own:
        suppressed = "self"
    elif playbook.mode == "disabled":
        suppressed = "mode: disabled"
    elif asked.silence is not None:
        suppressed = f"silence: {asked.silence}"
    elif throttle and not memory.take(
        _window(event, playbook, throttle, memory.hidden), throttle, made, memory.clock
    ):
        suppressed = "throttle"
    elif memory.paused and not memory.paused.isdisjoint((playbook.name, ALL_PLAYBOOKS)):
        suppressed = "paused"
        memory.give_back(made)
    memory.note(made, ran=suppressed is None)
    return Planned(run, suppressed)


def _window(
    event: Event,
    playbook: Playbook,
    throttle: Throttle,
    hidden: Callable[[Any], bool] | None,
) -> str:
    """The key of a throttle's window: playbook name, throttle text and what it counts by, as JSON.

    Values that must not be kept are a digest there, which tells them apart as well.
    """
    values: Any = [value for _, value in counted(event, throttle)]
    if hidden is not None and hidden(values):
        values = hashlib.sha256(msgspec.json.encode(values)).hexdigest()[:32]
    return msgspec.json.encode([playbook.name, throttle.text, values]).decode()


def counted(event: Event, throttle: Throttle) -> list[tuple[str, Any]]:
    """What a throttle counts by: names, and their values in the event (None: absent)."""
    if throttle.key is not None:
        values = [(field, _value(event, field)) for field in throttle.key]
        if any(value is None for _, value in values):
            # else events that have nothing in common would share a window
            values += [(field, _value(event, field)) for field in _ORIGIN]
        return values
    who = subject_of(event)
    pod = who.pod or who.container_id or event.hostname
    return [("rule", event.rule), ("namespace", who.namespace or event.hostname), ("pod", pod)]


def _value(event: Event, field: str) -> Any:
    value = getattr(event, field) if field in _WORDS else event.fields.get(field)
    return value if present(value) else None
