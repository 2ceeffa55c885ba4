"""The claims in a history: how long each lasted, which writes were made outside of them, and who took over."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tests.history.records import Effect, Fault, History, QueueEvent


class Held(NamedTuple):
    """One claim. It ends with the next change of its run. taken: whether another process ended it."""

    run: str
    began: float
    ended: float
    process: str
    taken: bool = False


def changes_by_target(history: History) -> dict[str, list[QueueEvent]]:
    """Return the claims of each target and their ends, in their order."""
    targets: dict[str, list[QueueEvent]] = defaultdict(list)
    for one in history.queue:
        if one.what in ("claimed", "settled", "freed"):
            targets[one.target].append(one)
    return targets


def late_writes(history: History) -> dict[Effect, str]:
    """Return the writes that began outside of the claims of their process -> their run, or undo and target."""
    claims = _claims(history)
    late = {}
    for effect in history.effects:
        key = _key(effect)
        if not any(_covers(held, effect) for held in claims.get(key, ())):
            late[effect] = key
    return late


def overtaken_writes(history: History) -> set[Effect]:
    """Return the writes that had begun when another process took over their claim."""
    claims = _claims(history)
    return {
        effect
        for effect in history.effects
        for held in claims.get(_key(effect), ())
        if _covers(held, effect) and held.taken and held.ended < effect.ended
    }


def recoveries(history: History, kind: str, *, alone: bool = False) -> list[float]:
    """Return the seconds from each kill until the work went on.

    kind: ``kill``: until the first claim by another process of a run that the killed replica held.
    ``fail-over``: until the first commit on the promoted standby. alone: only those without another fault
    meanwhile.
    """
    found = []
    for fault in history.faults:
        if fault.kind != kind:
            continue
        later = [one for one in history.queue if one.at > fault.began]
        if kind == "kill":
            freed = {
                held.run
                for held in _held(history)
                if held.began < fault.began < held.ended and held.process == fault.process
            }
            later = [one for one in later if one.what == "claimed" and one.run in freed]
        else:
            later = [one for one in later if one.what in ("claimed", "accepted", "settled")]
        if later and not (alone and _another(history, fault, later[0].at)):
            found.append(later[0].at - fault.began)
    return found


def _another(history: History, fault: Fault, until: float) -> bool:
    """Whether another fault was in progress between the begin of a fault and a time."""
    return any(
        one is not fault and one.began < until and fault.began < one.ended for one in history.faults
    )


def _key(effect: Effect) -> str:
    return f"undo {effect.target}" if effect.undo else effect.run


def _covers(held: Held, effect: Effect) -> bool:
    """Whether a write began during a claim of its process."""
    return held.began <= effect.began <= held.ended and held.process == effect.process


def _claims(history: History) -> dict[str, list[Held]]:
    """Return the claims of each run, and of the undos of each target."""
    claims: dict[str, list[Held]] = defaultdict(list)
    undos = {one.run: f"undo {one.target}" for one in history.queue if one.undoes}
    for held in _held(history):
        claims[undos.get(held.run, held.run)].append(held)
    return claims


def _held(history: History) -> list[Held]:
    found = []
    opened: dict[str, QueueEvent] = {}
    for changes in changes_by_target(history).values():
        for one in changes:
            before = opened.pop(one.run, None)
            if before is not None:
                taken = one.process != before.process
                found.append(Held(one.run, before.at, one.at, before.process, taken))
            if one.what == "claimed":
                opened[one.run] = one
    found += [Held(one.run, one.at, float("inf"), one.process) for one in opened.values()]
    return found
