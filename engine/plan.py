"""The heart: from an event to runs. A pure function of the event, the playbooks and a memory; no I/O."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from engine.event import identity, present
from engine.run import Run, run_id
from engine.target import lane, named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.event import Event
    from engine.match import Playbooks
    from engine.playbook import Playbook, Throttle

SKEW = 300.0
"""Seconds by which an event's time may differ from its receipt and still be the throttles' clock."""
ALL = "*"
"""Among the paused: every playbook; none can have this name."""
_REMEMBERED = 100_000
_WORDS = ("rule", "source", "hostname")


class Planned(msgspec.Struct, frozen=True):
    """One playbook's answer to an event: its run, and why nothing of it runs (None: it runs).

    ran: of a duplicate, whether the first one ran.
    """

    run: Run
    suppressed: str | None = None
    ran: bool = False


class Memory:
    """What planning remembers: identities, throttle windows, a clock that never goes back, pauses.

    paused: names of playbooks, and ``*`` for all. own: the API server's name of the engine itself, whose
    doings are no events to act on. hidden: whether a value must not be kept as it is. changes: what the
    journal must keep (key -> JSON, None to forget) until it is taken.
    """

    def __init__(self, windows: Mapping[str, Any] | None = None) -> None:
        self.windows: dict[str, Any] = dict(windows or {})
        self.clock = 0.0
        self.paused: frozenset[str] = frozenset()
        self.own: str | None = None
        self.hidden: Callable[[Any], bool] | None = None
        self.changes: dict[str, Any] = {}
        self._seen: OrderedDict[str, bool] = OrderedDict()
        self._slots: OrderedDict[str, str] = OrderedDict()
        for key, window in self.windows.items():
            if window.get("run"):
                self._slots[window["run"]] = key

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
        if throttle.once is not None:
            acts = "at" not in window or time - window["at"] >= throttle.once
            stamps: list[float] = []
            kept = throttle.once
        else:
            since = time - throttle.within
            stamps = [*(stamp for stamp in window.get("stamps", ()) if stamp > since), time]
            stamps = stamps[-throttle.count :]
            acts, kept = len(stamps) >= throttle.count, throttle.within
        if acts:
            slot = {"at": time, "stamps": [], "run": run, "before": stamps[:-1]}
            self._change(key, {**slot, "until": time + kept})
            self._slots[run] = key
        elif throttle.once is None:
            self._change(key, {**window, "stamps": stamps, "until": time + kept})
        return acts

    def give_back(self, run: str) -> None:
        """Give the slot back of a run of which no step was done, so that the next event acts."""
        key = self._slots.pop(run, None)
        window = self.windows.get(key) if key else None
        if key is None or window is None or window.get("run") != run:
            return
        stamps = [*window["before"], *window.get("stamps", ())]
        self._change(key, {"stamps": stamps, "until": window["until"]} if stamps else None)

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
            self._slots.pop(self.windows.pop(key).get("run", ""), None)
            self.changes[key] = None


def plan(
    event: Event, playbooks: Playbooks, memory: Memory, received: float | None = None
) -> tuple[Planned, ...]:
    """What each playbook that wants the event does about it, by playbook name.

    received: epoch seconds of the receipt, in the engine; without it (previews) the clock is the event's.
    """
    wanting = playbooks.wanting(event)
    if not wanting:
        return ()
    time_ns = event.time_ns
    if received is not None and abs(event.time - received) > SKEW:
        time_ns = int(received * 1e9)
    memory.clock = max(memory.clock, time_ns / 1e9)
    silence = playbooks.silence(event, time_ns)
    asked = _Asked(event, identity(event), event.time if received is None else received, silence)
    return tuple(_plan_one(asked, playbook, memory) for playbook in wanting)


class _Asked(msgspec.Struct, frozen=True):
    """What is the same for all playbooks that want an event. silence: the name of one that covers it."""

    event: Event
    identity: str
    received: float
    silence: str | None


def _plan_one(asked: _Asked, playbook: Playbook, memory: Memory) -> Planned:
    event, received = asked.event, asked.received
    made = run_id(asked.identity, playbook.name)
    run = Run(made, playbook, event, received, lane(event, made))
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
    elif memory.paused and not memory.paused.isdisjoint((playbook.name, ALL)):
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
        return [(field, _value(event, field)) for field in throttle.key]
    who = named(event)
    pod = who.pod or who.container_id or event.hostname
    return [("rule", event.rule), ("namespace", who.namespace or event.hostname), ("pod", pod)]


def _value(event: Event, field: str) -> Any:
    value = getattr(event, field) if field in _WORDS else event.fields.get(field)
    return value if present(value) else None
