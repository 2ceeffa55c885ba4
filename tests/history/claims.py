"""The claims in a history: how long each lasted, which writes were made outside of them, and who took over."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.history.records import Effect, History, QueueEvent

Interval = tuple[float, float, str]
"""Begin, end and process of a claim."""


def changes_by_target(history: History) -> dict[str, list[QueueEvent]]:
    """Return the claims of each target and their ends, in their order."""
    targets: dict[str, list[QueueEvent]] = defaultdict(list)
    for one in history.queue:
        if one.what in ("claimed", "settled", "freed"):
            targets[one.target].append(one)
    return targets


def late_writes(history: History) -> dict[Effect, str]:
    """Return the writes that began outside of the claims of their process -> their run, or undo and target."""
    claims = _intervals(history)
    late = {}
    for effect in history.effects:
        key = _key(effect)
        if not any(
            began <= effect.began <= ended and process == effect.process
            for began, ended, process in claims.get(key, ())
        ):
            late[effect] = key
    return late


def overtaken_writes(history: History) -> set[Effect]:
    """Return the writes that had begun when another process took over their claim."""
    claims = _intervals(history)
    return {
        effect
        for effect in history.effects
        for began, ended, process in claims.get(_key(effect), ())
        if began <= effect.began <= ended < effect.ended and process == effect.process
    }


def recoveries(history: History, kind: str) -> list[float]:
    """Return the seconds from each kill until the work went on.

    kind: ``kill``: until the first claim by another process of a run that the killed replica held.
    ``fail-over``: until the first commit on the promoted standby.
    """
    found = []
    for fault in history.faults:
        if fault.kind != kind:
            continue
        later = [one for one in history.queue if one.at > fault.began]
        if kind == "kill":
            freed = {
                run
                for run, began, ended, process in _held(history)
                if began < fault.began < ended and process == fault.process
            }
            later = [one for one in later if one.what == "claimed" and one.run in freed]
        else:
            later = [one for one in later if one.what in ("claimed", "accepted", "settled")]
        if later:
            found.append(later[0].at - fault.began)
    return found


def _key(effect: Effect) -> str:
    return f"undo {effect.target}" if effect.undo else effect.run


def _intervals(history: History) -> dict[str, list[Interval]]:
    """Return the claims of each run, and of the undos of each target, as times."""
    claims: dict[str, list[Interval]] = defaultdict(list)
    undos = {one.run: f"undo {one.target}" for one in history.queue if one.undoes}
    for run, began, ended, process in _held(history):
        claims[undos.get(run, run)].append((began, ended, process))
    return claims


def _held(history: History) -> list[tuple[str, float, float, str]]:
    """Return run, begin, end and process of each claim. It ends with the next change of the run."""
    found = []
    opened: dict[str, QueueEvent] = {}
    for changes in changes_by_target(history).values():
        for one in changes:
            before = opened.pop(one.run, None)
            if before is not None:
                found.append((one.run, before.at, one.at, before.process))
            if one.what == "claimed":
                opened[one.run] = one
    found += [(one.run, one.at, float("inf"), one.process) for one in opened.values()]
    return found
