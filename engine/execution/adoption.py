"""A journal that was lost: the policies that it knew of stand in the cluster, and are taken over from there.

Each carries its run, its playbook, its rule and its end; so it is undone at its hour all the same, and
``tiercel history`` and ``tiercel undo`` know it. Labels that steps put on pods carry no such marks; of
those only the quarantine label is known, by the policy that selects it.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog

from engine.actions.parameters import dns_label
from engine.actions.pod_isolate import QUARANTINE
from engine.actions.registry import load_actions
from engine.cluster.api import NETWORK_POLICY, POD
from engine.cluster.undo import EXPIRES_AT, MANAGED_BY
from engine.journal.codec import UnreadableError
from engine.journal.protocol import History, UndoLog
from engine.language.compile import playbook_from_snapshot
from engine.language.schema import API_VERSION
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
from engine.model.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.cluster.api import ClusterReader
    from engine.model.calls import Object

ACTION = "pod.isolate"
_NAME = re.compile(r"tiercel-[0-9a-f]{10}")
_RUN = re.compile(r"[0-9a-f]{32}")
_FIRST, _LONGEST = 1.0, 60.0
"""Seconds before the cluster is asked again where it did not answer; doubled each time."""
log = structlog.get_logger()


class AdoptionJournal(History, UndoLog, Protocol):
    """The parts of the journal that adoption uses."""


def adopt(cluster: ClusterReader, journal: AdoptionJournal, now: float) -> int:
    """Take over every policy of ours that the journal does not hold; how many that were.

    now: when that is, epoch seconds; their runs are kept as those that end now, however old the policies are.
    Raises TemporaryError, PermanentError (a missing right), JournalError.
    """
    return sum(_adopt(policy, journal, now) for policy in cluster.list(NETWORK_POLICY))


def _adopt(policy: Object, journal: AdoptionJournal, now: float) -> bool:
    metadata = policy["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    id_ = annotations.get("tiercel.dev/run", "")
    ours = labels.items() >= MANAGED_BY.items() and _NAME.fullmatch(metadata["name"])
    if not ours or not _RUN.fullmatch(id_):
        return False
    changes = _changes(policy)
    if journal.undo_times(changes[0].key):
        return False
    try:
        record = journal.find(id_)
        run = record.run if record else _run(id_, policy)
    except (EventError, PlaybookError, UnreadableError, ValueError) as error:
        log.warning("not taken over", policy=_about(metadata), error=str(error))
        return False
    step = next((one.name for one in run.steps if one.action == ACTION), None)
    until = _until(annotations.get(EXPIRES_AT))
    if step is None or not journal.adopt(run, step, changes, until, now=now):
        return False
    log.info("taken over", policy=_about(metadata), run=id_, until=annotations.get(EXPIRES_AT))
    return True


def _changes(policy: Object) -> list[ObjectChange]:
    """What the step that made the policy has changed."""
    metadata = policy["metadata"]
    changes = [ObjectChange(NETWORK_POLICY, metadata.get("namespace"), metadata["name"])]
    selector = (policy.get("spec") or {}).get("podSelector") or {}
    label = (selector.get("matchLabels") or {}).get(QUARANTINE)
    path = ("metadata", "labels", QUARANTINE)
    for owner in metadata.get("ownerReferences") or [] if label else []:
        if owner.get("kind") == "Pod":
            place, name, uid = metadata.get("namespace"), owner["name"], owner["uid"]
            changes.append(ObjectChange(POD, place, name, uid, path, label))
    return changes


def _run(id_: str, policy: Object) -> Run:
    """A run that could have made the policy; what else it did is not known any more."""
    metadata = policy["metadata"]
    rule = (metadata.get("annotations") or {}).get("tiercel.dev/rule") or "unknown"
    name = (metadata.get("labels") or {}).get("tiercel.dev/playbook") or ""
    if dns_label(name):
        raise ValueError("its label tiercel.dev/playbook is no playbook's name")
    owner: Object = next(iter(metadata.get("ownerReferences") or []), {})
    fields = {"k8s.ns.name": metadata.get("namespace"), "k8s.pod.name": owner.get("name")}
    time = metadata.get("creationTimestamp") or "1970-01-01T00:00:00Z"
    event = parse_event({"rule": rule, "time": time, "output_fields": fields})
    document: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "Playbook",
        "metadata": {"name": name},
        "spec": {"match": {"rules": [rule]}, "actions": [{"action": ACTION}]},
    }
    playbook = playbook_from_snapshot(msgspec.json.encode(document), load_actions())
    return Run(id_, playbook, event, event.time, target_queue(event, id_))


def _until(text: str | None) -> float | None:
    """Epoch seconds; None, for a person to end it, where there is no time that can be read."""
    try:
        return parse_time(text) / 1e9 if text else None
    except ValueError:
        return None


def _about(metadata: Object) -> str:
    return f"{metadata.get('namespace')}/{metadata['name']}"


class Adoption:
    """A thread that takes over once, as soon as the cluster answers."""

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
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; what was not taken over is at the next start."""
        self._stopping.set()

    def _work(self) -> None:
        wait = _FIRST
        while not self._stopping.is_set():
            try:
                if adopt(self._cluster, self._journal, self._now()):
                    self._wake()
            except PermanentError as error:
                log.warning("policies of a lost journal are not looked for", error=str(error))
            except (TemporaryError, JournalError):
                self._stopping.wait(wait)
                wait = min(wait * 2, _LONGEST)
                continue
            return
