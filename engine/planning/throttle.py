"""Throttle windows: which events used a playbook's throttle, so that the next ones are suppressed."""

from __future__ import annotations

import hashlib
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from engine.model.event import is_present
from engine.model.event_subject import subject_of
from engine.model.throttle_window import ThrottleUse, acquire, release, runs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.model.event import Event
    from engine.model.playbook import Playbook, Throttle

MAX_WINDOWS = 100_000
_EVENT_KEYS = ("rule", "source", "hostname")
"""Names in ``throttle.key`` that are keys of the event. All other names are output fields."""
_MAX_KEY = 1_000
"""Characters of a window key. A longer one, which values of an event can make, has a digest."""
_FALLBACK_KEY = ("container.id", "hostname")
"""Fields that are added to the key if one of its own fields is absent."""


class ThrottleWindows:
    """The windows of all throttles: at most 100,000, in the order of their last change.

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
            self._key_of_run |= dict.fromkeys(runs_of(window), key)

    def acquire(self, key: str, throttle: Throttle, run: str) -> bool:
        """Count an event in the window ``key``. Return whether the throttle lets its run act."""
        window = self.windows.get(key) or {}
        changed, acts = acquire(window, ThrottleUse(key, throttle, self.clock), run)
        if changed is not None:
            self._forget_runs(window)
            self._key_of_run |= dict.fromkeys(runs_of(changed), key)
            self._change(key, changed)
        return acts

    def release(self, run: str) -> None:
        """Undo ``acquire`` for a run that did no step, so that the next event can act.

        A second call for the same run has no effect.
        """
        key = self._key_of_run.pop(run, None)
        window = self.windows.get(key) if key else None
        if key is None or window is None or run not in runs_of(window):
            return
        self._change(key, release(window, run))

    def _forget_runs(self, window: dict[str, Any]) -> None:
        for run in runs_of(window):
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


def _current_format(window: dict[str, Any]) -> dict[str, Any]:
    """Convert a window of ``once`` from a journal of version 0.2 or older: one run and its time."""
    if "at" not in window or window["stamps"] or window["before"]:
        return window
    return {"acted": [[window["at"], window["run"]]], "until": window["until"]}


def window_key(
    event: Event, playbook: Playbook, throttle: Throttle, is_secret: Callable[[Any], bool] | None
) -> str:
    """Return the key of the event's window: playbook name, throttle text and values, as JSON.

    If ``is_secret`` is true for the values, a digest replaces them in the key. A digest also replaces text and
    values that are too long to keep.
    """
    values: Any = [value for _, value in throttle_key(event, throttle)]
    if is_secret is not None and is_secret(values):
        values = hashlib.sha256(msgspec.json.encode(values)).hexdigest()[:32]
    key = msgspec.json.encode([playbook.name, throttle.text, values])
    if len(key) > _MAX_KEY:
        key = msgspec.json.encode([playbook.name, hashlib.sha256(key).hexdigest()])
    return key.decode()


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
