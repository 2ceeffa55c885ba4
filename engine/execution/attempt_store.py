"""The data that an attempt writes to disk before it acts, and the undo of a step from that data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from engine.cluster.undo import latest, revert
from engine.execution.retry import undo_wait
from engine.model.errors import PermanentError, SkippedError, TemporaryError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.cluster.api import Cluster
    from engine.cluster.undo import UndoTimes
    from engine.model.calls import ObjectChange
    from engine.model.run import Claim, Notice


class AttemptStore(Protocol):
    """Where an attempt saves its state.

    ``keep`` and ``add_undo_intent`` return False, and write nothing, if another attempt has taken over the step.
    All methods raise TemporaryError, and PermanentError for a value that cannot be stored.
    """

    def keep(
        self, claim: Claim, attempt_state: Mapping[str, Any], notice: Notice | None = None
    ) -> bool:
        """Add to the attempt state of the run, and accept the run of a notice. On disk when it returns."""
        ...

    def add_undo_intent(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        attempt_state: Mapping[str, Any],
    ) -> bool:
        """Add to the attempt state, and save an undo intent. On disk when it returns.

        changes: what the step is about to change. until: when to undo it, epoch seconds (None: on request).
        """
        ...

    def undo_times(self, key: str, exclude: str | None = None) -> UndoTimes:
        """Return when the undo intents for a changed value are due, except that of the undo ``exclude``."""
        ...


class PreviewStore:
    """A store that saves nothing."""

    def keep(
        self, claim: Claim, attempt_state: Mapping[str, Any], notice: Notice | None = None
    ) -> bool:
        """Save nothing, and return True."""
        del claim, attempt_state, notice
        return True

    def add_undo_intent(
        self,
        claim: Claim,
        changes: Sequence[ObjectChange],
        until: float | None,
        attempt_state: Mapping[str, Any],
    ) -> bool:
        """Save nothing, and return True."""
        del claim, changes, until, attempt_state
        return True

    def undo_times(self, key: str, exclude: str | None = None) -> UndoTimes:
        """Return no undo intents."""
        del key, exclude
        return ()


PREVIEW_STORE = PreviewStore()


def require_current_claim(written: bool) -> None:  # noqa: FBT001 - the result of an AttemptStore method
    """Raise TemporaryError if nothing was written. A step must not act on state that is not on disk."""
    if not written:
        raise TemporaryError("another attempt has taken over")


def add_undo_intent(
    claim: Claim,
    store: AttemptStore,
    at: tuple[float, Mapping[str, Any]],
    changes: Sequence[ObjectChange],
    ttl: float | None,
) -> float | None:
    """Save an undo intent. Return when the last undo intent for the first of the changes is due.

    at: the time (epoch seconds), and attempt state to save with it. ttl: seconds (None: on request).
    The result is in epoch seconds, or None if that is only on request. Raises TemporaryError.
    """
    now, attempt_state = at
    until = None if ttl is None else now + ttl
    require_current_claim(store.add_undo_intent(claim, changes, until, attempt_state))
    return latest([until, *store.undo_times(changes[0].key)])


def undo(claim: Claim, cluster: Cluster, store: AttemptStore) -> str:
    """Undo the changes of a step, the last one first. Return one sentence.

    A change that cannot be undone now does not prevent the others. Raises TemporaryError, PermanentError.
    """
    messages: list[str] = []
    errors: list[TemporaryError | PermanentError] = []
    for change in reversed(claim.changes):
        try:
            messages.append(
                revert(change, cluster, lambda key: store.undo_times(key, exclude=claim.undo))
            )
        except SkippedError as error:  # the object was deleted in the meantime
            messages.append(str(error))
        except PermanentError as error:
            errors.append(error)
        except TemporaryError as error:
            if not error.answered:
                raise
            errors.append(error)
    if errors:
        text = "; ".join([*map(str, errors), *messages])
        raise TemporaryError(text, again=undo_wait(claim.attempt), answered=True)
    return "; ".join(messages)
