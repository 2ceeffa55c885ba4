"""Adoption: if the journal is lost, add the policies that are still in the cluster to the new journal.

Each policy names its run, its playbook, its rule and its end. So it is undone on time, and ``tiercel history``
and ``tiercel undo`` know it. Labels that steps put on pods do not name their run, so they are not adopted. The
exception is the quarantine label, which the policy selects.
"""

from __future__ import annotations

import contextlib
import re
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog

from engine.actions.managed_objects import BLOB, PLAYBOOK, REVISION, RULE, RUN, RUN_AS
from engine.actions.parameters import check_namespace
from engine.actions.quarantine import QUARANTINE, quarantine_label
from engine.actions.registry import load_actions
from engine.cluster.api import NETWORK_POLICY, POD
from engine.cluster.policy_providers.cut import kept_destinations
from engine.cluster.policy_providers.registry import POLICY_KINDS
from engine.cluster.undo import EXPIRES_AT, MANAGED_BY
from engine.journal.codec import UnreadableError
from engine.journal.protocol import History, UndoLog
from engine.language.compile import playbook_from_snapshot
from engine.language.schema import API_VERSION
from engine.language.value_checks import service_account
from engine.model.calls import ObjectChange
from engine.model.errors import (
    EventError,
    JournalError,
    PermanentError,
    PlaybookError,
    TemporaryError,
)
from engine.model.event import parse_event, parse_time
from engine.model.event_subject import target_queue
from engine.model.revision import parse_blob, parse_revision
from engine.model.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.cluster.api import ClusterReader
    from engine.model.calls import Kind, Object

_NAME = re.compile(r"tiercel-[0-9a-f]{10}")
_RUN = re.compile(r"[0-9a-f]{32}")
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
    return sum(_adopt(kind, policy, journal, now) for kind, policy in _policies(cluster))


def _policies(cluster: ClusterReader) -> Iterator[tuple[Kind, Object]]:
    """Yield the policies of every provider."""
    yield from ((NETWORK_POLICY, policy) for policy in cluster.list(NETWORK_POLICY))
    for kind in POLICY_KINDS:
        if kind == NETWORK_POLICY or not cluster.serves(kind):
            continue
        # without the right, no playbook uses the kind
        with contextlib.suppress(PermanentError):
            yield from ((kind, policy) for policy in cluster.list(kind))


def _adopt(kind: Kind, policy: Object, journal: AdoptionJournal, now: float) -> bool:
    metadata = policy["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    id_ = annotations.get(RUN, "")
    ours = labels.items() >= MANAGED_BY.items() and _NAME.fullmatch(metadata["name"])
    if not ours or not _RUN.fullmatch(id_):
        return False
    changes = _changes(kind, policy)
    if journal.undo_times(changes[0].key):
        return False
    try:
        record = journal.find(id_)
        run = record.run if record else _run(id_, policy)
    except (EventError, PlaybookError, UnreadableError, ValueError) as error:
        log.warning("policy_not_adopted", policy=_full_name(metadata), error=str(error))
        return False
    step = next((one.name for one in run.steps if one.action == _action(policy)), None)
    until = _until(annotations.get(EXPIRES_AT))
    if step is None or not journal.adopt(run, step, changes, until, now=now):
        return False
    expires_at = annotations.get(EXPIRES_AT)
    log.info("policy_adopted", policy=_full_name(metadata), run=id_, until=expires_at)
    return True


def _action(policy: Object) -> str:
    """Return the action that created a policy. Only a block keeps destinations."""
    annotations = policy["metadata"].get("annotations") or {}
    return "pod.block" if kept_destinations(annotations) else "pod.isolate"


def _changes(kind: Kind, policy: Object) -> list[ObjectChange]:
    """Return the changes that the step which created the policy made."""
    metadata = policy["metadata"]
    place = (kind, metadata.get("namespace"), metadata["name"])
    changes = [ObjectChange(*place)]
    for key, one in kept_destinations(metadata.get("annotations") or {}).items():
        path = ("metadata", "annotations", key)
        changes.append(ObjectChange(*place, path=path, put=one.annotation))
    path = ("metadata", "labels", QUARANTINE)
    for owner in metadata.get("ownerReferences") or []:
        if owner.get("kind") == "Pod":
            namespace, name, uid = metadata.get("namespace"), owner["name"], owner["uid"]
            label = quarantine_label(uid)
            changes.append(ObjectChange(POD, namespace, name, uid, path, label))
    return changes


def _run(id_: str, policy: Object) -> Run:
    """Return a run that could have created the policy. Its other steps are not known.

    Raises ValueError if the policy does not name a playbook, EventError, PlaybookError.
    """
    metadata = policy["metadata"]
    annotations = metadata.get("annotations") or {}
    rule = annotations.get(RULE) or "unknown"
    name = (metadata.get("labels") or {}).get(PLAYBOOK) or ""
    if check_namespace(name):
        raise ValueError("its label tiercel.dev/playbook is not the name of a playbook")
    run_as = annotations.get(RUN_AS) or ""
    if run_as and service_account(run_as):
        raise ValueError(f"its annotation {RUN_AS} is not the name of a ServiceAccount")
    owner: Object = next(iter(metadata.get("ownerReferences") or []), {})
    fields = {"k8s.ns.name": metadata.get("namespace"), "k8s.pod.name": owner.get("name")}
    time = metadata.get("creationTimestamp") or "1970-01-01T00:00:00Z"
    event = parse_event({"rule": rule, "time": time, "output_fields": fields})
    spec: dict[str, Any] = {"match": {"rules": [rule]}, "actions": [{"action": _action(policy)}]}
    document = {
        "apiVersion": API_VERSION,
        "kind": "Playbook",
        "metadata": {"name": name},
        "spec": {**spec, **({"runAs": run_as} if run_as else {})},
    }
    playbook = playbook_from_snapshot(msgspec.json.encode(document), load_actions())
    playbook = replace(playbook, blob=parse_blob(annotations.get(BLOB)))
    revision = parse_revision(annotations.get(REVISION))
    return Run(id_, playbook, event, event.time, target_queue(event, id_), revision=revision)


def _until(text: str | None) -> float | None:
    """Return the end of a policy in epoch seconds, or None (on request) if the text is not a time."""
    try:
        return parse_time(text) / 1e9 if text else None
    except ValueError:
        return None


def _full_name(metadata: Object) -> str:
    return f"{metadata.get('namespace')}/{metadata['name']}"


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
