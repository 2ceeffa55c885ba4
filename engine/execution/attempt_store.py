"""What an attempt writes down before it acts, and how what a step has changed is put back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from engine.cluster.undo import latest, revert
from engine.model.errors import SkippedError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.cluster.api import Cluster
    from engine.cluster.undo import DueTimes
    from engine.model.calls import ObjectChange
    from engine.model.run import Claim, Notice


class AttemptStore(Protocol):
    """Where an attempt writes things down; False from it: another attempt has taken over."""

    def keep(self, claim: Claim, facts: Mapping[str, Any], notice: Notice | None = None) -> bool:
        """Add facts to the run, and accept the run of a notice with them; on disk when it returns."""
        ...

    def add_undo_intent(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        facts: Mapping[str, Any],
    ) -> bool:
        """Keep facts, and what is about to be changed, to be undone at ``until`` (None: when asked)."""
        ...

    def undo_times(self, key: str, exclude: str | None = None) -> DueTimes:
        """When the holds on a changed thing end, but that of one undoing."""
        ...


class PreviewStore:
    """Where previews keep things."""

    def keep(self, claim: Claim, facts: Mapping[str, Any], notice: Notice | None = None) -> bool:
        """Keep nothing."""
        del claim, facts, notice
        return True

    def add_undo_intent(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        facts: Mapping[str, Any],
    ) -> bool:
        """Hold nothing."""
        del claim, changes, until, facts
        return True

    def undo_times(self, key: str, exclude: str | None = None) -> DueTimes:
        """Of no other hold."""
        del key, exclude
        return ()


PREVIEW_STORE = PreviewStore()


def require_current_claim(written: bool) -> None:  # noqa: FBT001 - what a store told
    """Raise TemporaryError where nothing was written: what is not on disk must not be acted upon."""
    if not written:
        raise TemporaryError("another attempt has taken over")


def hold(
    claim: Claim,
    store: AttemptStore,
    at: tuple[float, Mapping[str, Any]],
    changes: Sequence[ObjectChange],
    ttl: float | None,
) -> float | None:
    """Write down what is about to be changed; the end of the last hold on the first of the changes.

    at: the time, and what else is to be kept. Raises TemporaryError.
    """
    now, facts = at
    until = None if ttl is None else now + ttl
    require_current_claim(store.add_undo_intent(claim, changes, until, facts))
    return latest([until, *store.undo_times(changes[0].key)])


def undo(claim: Claim, cluster: Cluster, store: AttemptStore) -> str:
    """Put back what the step has changed, the last change first; the sentence.

    Raises TemporaryError, PermanentError.
    """
    said = []
    for change in reversed(claim.changes):
        try:
            said.append(
                revert(change, cluster, lambda key: store.undo_times(key, exclude=claim.undo))
            )
        except SkippedError as error:  # it went meanwhile
            said.append(str(error))
    return "; ".join(said)
