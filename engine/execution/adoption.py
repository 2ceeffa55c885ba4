"""Adoption: if the journal is lost, add the policies that are still in the cluster to the new journal.

Each policy names its run, its playbook, its rule and its end. So it is undone on time, and ``tiercel history``
and ``tiercel undo`` know it. A policy also names its pod, and the labels that the step removed from the pod.
Other labels that steps put on pods do not name their run, so they are not adopted.

Policies that ``resource.apply`` created are adopted, too. Its objects of other kinds are not: the engine has no
right to list them.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Protocol

import structlog

from engine.cluster.api import NETWORK_POLICY
from engine.cluster.policy_providers.registry import POLICY_KINDS
from engine.cluster.undo import EXPIRES_AT
from engine.execution.found_policy import FoundPolicy, run_of
from engine.journal.codec import UnreadableError
from engine.journal.protocol import History, UndoLog
from engine.model.errors import (
    EventError,
    JournalError,
    PermanentError,
    PlaybookError,
    TemporaryError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from engine.cluster.api import ClusterReader

MAX_POLICIES = 100
"""Policies of one run that are adopted. A run of the engine has one for each step."""
_FIRST_WAIT, _MAX_WAIT = 1.0, 60.0
"""Seconds until the next try if the cluster does not answer. The wait doubles each time."""
log = structlog.get_logger()


class AdoptionJournal(History, UndoLog, Protocol):
    """The parts of the journal that adoption uses."""


def adopt(cluster: ClusterReader, journal: AdoptionJournal, now: float) -> int:
    """Add every policy of Tiercel that is not in the journal. Return how many there were.

    now: epoch seconds. It becomes the end of the adopted runs, so retention keeps them however old they are.
    Raises TemporaryError, PermanentError (a missing right), JournalError.
    """
    by_origin: dict[tuple[str | None, ...], list[FoundPolicy]] = {}
    for policy in _policies(cluster):
        if policy.run:
            by_origin.setdefault(policy.origin, []).append(policy)
    return sum(_adopt(policies, journal, now) for policies in by_origin.values())


def _policies(cluster: ClusterReader) -> Iterator[FoundPolicy]:
    """Yield the policies of every provider."""
    yield from (FoundPolicy(NETWORK_POLICY, policy) for policy in cluster.list(NETWORK_POLICY))
    for kind in POLICY_KINDS:
        if kind == NETWORK_POLICY or not cluster.serves(kind):
            continue
        # without the right, no playbook uses the kind
        with contextlib.suppress(PermanentError):
            yield from (FoundPolicy(kind, policy) for policy in cluster.list(kind))


def _adopt(policies: Sequence[FoundPolicy], journal: AdoptionJournal, now: float) -> int:
    """Add the policies of one run that are not in the journal. Return how many there were."""
    id_ = policies[0].run or ""
    left = [one for one in policies if not journal.undo_times(one.changes[0].key)]
    if not left:
        return 0
    try:
        record = journal.find(id_)
        run = record.run if record else run_of(id_, left[:MAX_POLICIES])
    except (EventError, PlaybookError, UnreadableError, ValueError) as error:
        log.warning("policy_not_adopted", policy=left[0].full_name, error=str(error))
        return 0
    adopted = 0
    # a policy that was undone since it was listed must not be in force again
    closed = {one.step for one in record.results if one.state == "undone"} if record else set()
    closed |= record.undo.keys() if record else set()
    steps = [one for one in run.steps if one.name not in closed]
    for policy in left:
        step = next((one for one in steps if one.action == policy.action), None)
        if step is None or not journal.adopt(run, step.name, policy.changes, policy.until, now=now):
            continue
        steps.remove(step)
        adopted += 1
        expires_at = policy.annotations.get(EXPIRES_AT)
        log.info("policy_adopted", policy=policy.full_name, run=id_, until=expires_at)
    return adopted


class Adoption:
    """A thread that adopts once, as soon as the cluster answers."""

    def __init__(
        self,
        cluster: ClusterReader,
        journal: AdoptionJournal,
        wake: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self._cluster, self._journal, self._wake, self._now = cluster, journal, wake, now
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tiercel-adopt", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread. The next start of the engine adopts the remaining policies."""
        self._stopping.set()

    def _work(self) -> None:
        wait = _FIRST_WAIT
        while not self._stopping.is_set():
            try:
                if adopt(self._cluster, self._journal, self._now()):
                    self._wake()
            except PermanentError as error:
                log.warning("adoption_failed", error=str(error))
            except (TemporaryError, JournalError):
                self._stopping.wait(wait)
                wait = min(wait * 2, _MAX_WAIT)
                continue
            return
