"""Throttle windows: which events used a playbook's throttle, so that the next ones are suppressed."""

from __future__ import annotations

import hashlib
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from engine.model.event import is_present
from engine.model.event_subject import subject_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.model.event import Event
    from engine.model.playbook import Playbook, Throttle

MAX_WINDOWS = 100_000
_EVENT_KEYS = ("rule", "source", "hostname")
"""Names in ``throttle.key`` that are keys of the event. All other names are output fields."""
_FALLBACK_KEY = ("container.id", "hostname")
"""Fields that are added to the key if one of its own fields is absent."""


class ThrottleWindows:
    """The windows of all throttles: at most 100,000, in the order of their last change.

    A window is a JSON object. Its keys are those of ``_first_window`` or ``_count_window``, and
    ``until``: epoch seconds after which the window has no effect.

    Attributes:
        windows: window key -> window.
        changes: window key -> changed window, or None if it was removed. The caller writes these to
            the journal and empties the dict.
        clock: epoch seconds. It never goes back. The caller sets it before each event.

    """

    def __init__(self, windows: Mapping[str, Any] | None = None) -> None:
        self.windows = {key: _current_format(window) for key, window in (windows or {}).items()}
        self.changes: dict[str, Any] = {}
        self.clock = 0.0
        self._key_of_run: dict[str, str] = {}
        for key, window in self.windows.items():
            self._key_of_run |= dict.fromkeys(_runs(window), key)

    def acquire(self, key: str, throttle: Throttle, run: str) -> bool:
        """Count an event in the window ``key``. Return whether the throttle lets its run act."""
        window = self.windows.get(key) or {}
        update = _count_window if throttle.first is None else _first_window
        changed, acts = update(window, throttle, run, self.clock)
        if changed is not None:
            self._forget_runs(window)
            self._key_of_run |= dict.fromkeys(_runs(changed), key)
            self._change(key, {**changed, "until": self.clock + throttle.within})
        return acts

    def release(self, run: str) -> None:
        """Undo ``acquire`` for a run that did no step, so that the next event can act.

        A second call for the same run has no effect.
        """
        key = self._key_of_run.pop(run, None)
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

    def _forget_runs(self, window: dict[str, Any]) -> None:
        for run in _runs(window):
            self._key_of_run.pop(run, None)

    def _change(self, key: str, window: dict[str, Any] | None) -> None:
        self.changes[key] = window
        self.windows.pop(key, None)
        if window is None:
            return
        self.windows[key] = window  # after pop: the dict is in the order of the last change
        if len(self.windows) > MAX_WINDOWS:
            self._evict()

    def _evict(self) -> None:
        """Remove the windows that are over. If that is not enough, also remove the oldest tenth.

        An attacker can invent values of the fields in a throttle's key, and each value has a window.
        """
        removed = [k for k, window in self.windows.items() if window["until"] < self.clock]
        if len(self.windows) - len(removed) > MAX_WINDOWS * 9 // 10:
            active = (k for k, window in self.windows.items() if window["until"] >= self.clock)
            removed += islice(active, MAX_WINDOWS // 10)
        for key in removed:
            self._forget_runs(self.windows.pop(key))
            self.changes[key] = None


def _runs(window: dict[str, Any]) -> list[str]:
    """Return the ids of the runs in a window that ``release`` can give back."""
    last = [window["run"]] if "run" in window else []
    return last + [run for _, run in window.get("acted", ())]


def _first_window(
    window: dict[str, Any], throttle: Throttle, run: str, time: float
) -> tuple[dict[str, Any] | None, bool]:
    """Apply a throttle with ``first``: return the new window (None: unchanged) and whether the run acts.

    acted: time and run of each event that acted within the last ``within`` seconds.
    """
    acted = [slot for slot in window.get("acted", ()) if time - slot[0] < throttle.within]
    if len(acted) >= (throttle.first or 0):
        return None, False
    return {"acted": [*acted, [time, run]]}, True


def _count_window(
    window: dict[str, Any], throttle: Throttle, run: str, time: float
) -> tuple[dict[str, Any] | None, bool]:
    """Apply a throttle with ``count``: return the new window and whether the run acts.

    stamps: times of the events since the last run that acted. run: that run. before: the times that
    were counted for it; ``release`` restores them.
    """
    since = time - throttle.within
    stamps = [*(stamp for stamp in window.get("stamps", ()) if stamp > since), time]
    stamps = stamps[-throttle.count :]
    if len(stamps) >= throttle.count:
        return {"stamps": [], "run": run, "before": stamps[:-1]}, True
    return {**window, "stamps": stamps}, False


def _current_format(window: dict[str, Any]) -> dict[str, Any]:
    """Convert a window of ``once`` from a journal of version 0.2 or older: one run and its time."""
    if "at" not in window or window["stamps"] or window["before"]:
        return window
    return {"acted": [[window["at"], window["run"]]], "until": window["until"]}


def window_key(
    event: Event, playbook: Playbook, throttle: Throttle, is_secret: Callable[[Any], bool] | None
) -> str:
    """Return the key of the event's window: playbook name, throttle text and values, as JSON.

    If ``is_secret`` is true for the values, a digest replaces them in the key.
    """
    values: Any = [value for _, value in throttle_key(event, throttle)]
    if is_secret is not None and is_secret(values):
        values = hashlib.sha256(msgspec.json.encode(values)).hexdigest()[:32]
    return msgspec.json.encode([playbook.name, throttle.text, values]).decode()


def throttle_key(event: Event, throttle: Throttle) -> list[tuple[str, Any]]:
    """Return the names and values that a throttle counts by. None is an absent value."""
    if throttle.key is not None:
        values = [(name, _value(event, name)) for name in throttle.key]
        if any(value is None for _, value in values):
            # otherwise unrelated events would share a window
            values += [(name, _value(event, name)) for name in _FALLBACK_KEY]
        return values
    subject = subject_of(event)
    pod = subject.pod or subject.container_id or event.hostname
    namespace = subject.namespace or event.hostname
    return [("rule", event.rule), ("namespace", namespace), ("pod", pod)]


def _value(event: Event, name: str) -> Any:
    value = getattr(event, name) if name in _EVENT_KEYS else event.fields.get(name)
    return value if is_present(value) else None
