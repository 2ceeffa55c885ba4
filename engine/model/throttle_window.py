"""One throttle window: how an event uses it, and how a run gives its slot back. Pure functions.

A window is a JSON object. Its keys are those of ``_first_window`` or ``_count_window``, and ``until``: epoch
seconds after which the window has no effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from engine.model.playbook import Throttle

Window = dict[str, Any]


class ThrottleUse(NamedTuple):
    """The use of a throttle by one run. key: of the window. clock: epoch seconds of the event."""

    key: str
    throttle: Throttle
    clock: float


def acquire(window: Window, use: ThrottleUse, run: str) -> tuple[Window | None, bool]:
    """Count an event. Return the new window (None: unchanged), and whether the run acts."""
    update = _count_window if use.throttle.first is None else _first_window
    changed, acts = update(window, use.throttle, run, use.clock)
    if changed is None:
        return None, acts
    return {**changed, "until": use.clock + use.throttle.within}, acts


def runs_of(window: Window) -> list[str]:
    """Return the ids of the runs in a window that ``release`` can give back."""
    last = [window["run"]] if "run" in window else []
    return last + [run for _, run in window.get("acted", ())]


def release(window: Window, run: str) -> Window | None:
    """Return the window without a run that is in it. None: nothing is left."""
    left: Window
    if "before" in window:
        left = {"stamps": [*window["before"], *window["stamps"]]}
    else:
        left = {"acted": [slot for slot in window["acted"] if slot[1] != run]}
    return {**left, "until": window["until"]} if any(left.values()) else None


def _first_window(
    window: Window, throttle: Throttle, run: str, time: float
) -> tuple[Window | None, bool]:
    """Apply a throttle with ``first``: return the new window (None: unchanged) and whether the run acts.

    acted: time and run of each event that acted within the last ``within`` seconds.
    """
    acted = [slot for slot in window.get("acted", ()) if _is_within(slot[0], time, throttle)]
    if len(acted) >= (throttle.first or 0):
        return None, False
    return {"acted": [*acted, [time, run]]}, True


def _count_window(
    window: Window, throttle: Throttle, run: str, time: float
) -> tuple[Window | None, bool]:
    """Apply a throttle with ``count``: return the new window and whether the run acts.

    stamps: times of the events since the last run that acted. run: that run. before: the times that
    were counted for it; ``release`` restores them.
    """
    earlier = (at for at in window.get("stamps", ()) if _is_within(at, time, throttle))
    stamps = [*earlier, time]
    stamps = stamps[-throttle.count :]
    if len(stamps) >= throttle.count:
        return {"stamps": [], "run": run, "before": stamps[:-1]}, True
    return {**window, "stamps": stamps}, False


def _is_within(earlier: float, time: float, throttle: Throttle) -> bool:
    """Return whether less than ``within`` has passed, in microseconds: epoch seconds have no exact tenths."""
    return round((time - earlier) * 1e6) < round(throttle.within * 1e6)
