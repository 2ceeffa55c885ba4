"""The data that attempts save before they act, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from engine.model.run import undo_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.model.calls import ObjectChange
    from engine.model.run import Claim, Notice


@dataclass
class MemoryStore:
    """An AttemptStore of one run. It survives an attempt that ends with a kill, as the journal does.

    intents: undo id -> time of the undo and the changes to undo.
    """

    attempt_state: dict[str, Any] = field(default_factory=dict)
    intents: dict[str, tuple[float | None, list[ObjectChange]]] = field(default_factory=dict)

    def keep(
        self, claim: Claim, attempt_state: Mapping[str, Any], notice: Notice | None = None
    ) -> bool:
        """See AttemptStore.keep."""
        del claim, notice
        self.attempt_state.update(attempt_state)
        return True

    def add_undo_intent(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        attempt_state: Mapping[str, Any],
    ) -> bool:
        """See AttemptStore.add_undo_intent. The value before the first of several changes is kept."""
        self.attempt_state.update(attempt_state)
        first = {one.key: one.before for _, kept in self.intents.values() for one in kept}
        kept = [replace(one, before=first.get(one.key, one.before)) for one in changes]
        self.intents[undo_id(claim.run.id, claim.step.name)] = (until, kept)
        return True

    def undo_times(self, key: str, exclude: str | None = None) -> list[float | None]:
        """See AttemptStore.undo_times."""
        found = self.intents.items()
        return [
            end for id_, (end, all_) in found if id_ != exclude for one in all_ if one.key == key
        ]

    def undoing(self, claim: Claim) -> Claim:
        """Return the claim that undoes the changes of a step."""
        id_ = undo_id(claim.run.id, claim.step.name)
        changes = self.intents[id_][1] if id_ in self.intents else ()
        return replace(claim, undo=id_, changes=tuple(changes))
