"""Watches the playbook folder. Loads a changed set completely and puts it in force, or keeps the old set.

Watches of ConfigMap mounts are not reliable. Therefore the folder is watched, never a file. Its content is
also read every few seconds, because inotify does not report a replaced mount.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from engine.actions.rbac import rights_by_account
from engine.actions.registry import load_actions
from engine.language.folder import VALUES, Files, FolderError, read_bounded, read_files
from engine.language.loader import Loader, PlaybookSet
from engine.model.errors import JournalError, PlaybookError
from engine.planning.matcher import PlaybookIndex
from engine.telemetry.events import Reloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from engine.journal.records import SavedSet
    from engine.model.errors import Finding
    from engine.telemetry.events import Observers

QUIET = 0.2
"""Seconds without a change after which a folder counts as completely written."""
POLL = 2.0
"""Seconds between two readings of the folder, independent of the watch."""
_MAX_NAMES = 20
"""Largest number of names of each kind in the log event about changes."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Active:
    """The playbooks in force. loaded_at: epoch seconds. error: why the folder is not in force."""

    playbooks: PlaybookIndex
    set: PlaybookSet
    loaded_at: float
    error: str | None = None


class SavedSets(Protocol):
    """The parts of the journal that keep the last good set. See engine.journal.protocol.State."""

    def last_set(self) -> SavedSet | None: ...  # noqa: D102
    def save_set(self, digest: str, files: Mapping[str, bytes], revision: str = "") -> None: ...  # noqa: D102


class Reloader:
    """Keeps ``active`` up to date with a folder. values: file that replaces the values file of the folder."""

    def __init__(
        self,
        folder: Path,
        values: Path | None,
        journal: SavedSets,
        observers: Observers,
        now: Callable[[], float],
    ) -> None:
        self._folder, self._values = folder, values
        self._journal, self._observers, self._now = journal, observers, now
        self._loader = Loader(load_actions())
        self._seen: tuple[object, ...] | None = None
        self._changed, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="tiercel-reload", daemon=True)
        self._observer: Any = None
        self._watched: int | None = None
        self._may_be_empty = False
        self.active: Active

    def start(self) -> None:
        """Load the folder, or the last valid set of the journal, and start to watch.

        An engine that never had playbooks accepts a folder without any, and then matches nothing. Later an empty
        folder is an error. Raises PlaybookError, FolderError if neither is usable.
        """
        self._may_be_empty = self._journal.last_set() is None
        self._renew_watch()  # before reading, so that a change in between is noticed
        try:
            self._load()
        except BaseException:  # also Ctrl-C: the thread of the watch must not stay
            self._stop_watch()
            raise
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopping.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._stop_watch()

    def ended_thread(self) -> str | None:
        """Return the name of the watching thread if it has ended, else None."""
        return None if self._thread.is_alive() else self._thread.name

    def check(self) -> None:
        """Read the folder. Put its set in force if it has changed and is completely written."""
        try:
            files = self._read_settled()
            if files is None or _state(files) == self._seen:
                return
            self._seen = _state(files)
            self._activate(files)
        except (FolderError, PlaybookError) as error:
            self._keep(error)
        except JournalError as error:
            # after a restart the set would be unknown; try again at the next poll
            self._seen = None
            self._keep(FolderError(f"the set cannot be saved: {error}"))

    def _load(self) -> None:
        try:
            files = self._read()
            self._seen = _state(files)
            self._activate(files)
        except (FolderError, PlaybookError) as error:
            self._activate_last(error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._renew_watch()
            if self._changed.wait(POLL):
                self._changed.clear()
                # do not wait longer for a file that always changes
                deadline = time.monotonic() + POLL
                while self._changed.wait(QUIET) and time.monotonic() < deadline:
                    self._changed.clear()
            if not self._stopping.is_set():
                self.check()

    def _read_settled(self) -> Files | None:
        """Return the files after two equal readings, None if they are being written. Raises FolderError."""
        files = self._read()
        if _state(files) == self._seen:
            return files
        if self._stopping.wait(QUIET):
            return None
        again = self._read()
        if _state(again) != _state(files):
            self._changed.set()
            return None
        return again

    def _read(self) -> Files:
        """Return the files of the folder, with the values file of --values. Raises FolderError."""
        files = read_files([self._folder])
        if not (self._may_be_empty or files.findings or files.files.keys() - {VALUES}):
            raise FolderError(f"{self._folder} has no playbook files")
        if self._values is None:
            return files
        return replace(files, files={**files.files, VALUES: read_bounded(self._values)})

    def _activate(self, files: Files) -> None:
        """Put the set of these files in force. Raises PlaybookError, FolderError, JournalError."""
        found = self._load_usable(files)
        active = Active(_index(found), found, self._now())
        if found.playbooks:
            self._journal.save_set(found.digest, files.files, found.revision)
            self._may_be_empty = False
        else:
            log.warning("no_playbooks", folder=str(self._folder), effect="no event starts a run")
        before, self.active = getattr(self, "active", None), active
        self._observers.notify(
            Reloaded(
                found.digest,
                len(found.playbooks),
                guardrails=found.guardrails,
                changes=None if before is None else _changes(before.set, found),
                revision=found.revision,
                rights=rights_by_account(found.playbooks),
            )
        )

    def _load_usable(self, files: Files) -> PlaybookSet:
        values = None
        if self._values and VALUES in files.files:
            values = (str(self._values), files.files[VALUES])
        found = self._loader.load(files, values).usable()
        if not (found.playbooks or self._may_be_empty):
            raise FolderError(f"{self._folder} has no playbooks")
        return found

    def _activate_last(self, error: FolderError | PlaybookError) -> None:
        """Put the last valid set of the journal in force. Raises ``error`` if there is none."""
        last = self._journal.last_set()
        if last is None:
            raise error
        try:
            found = self._load_usable(Files(str(self._folder), last.files, revision=last.revision))
        except (FolderError, PlaybookError):  # saved by another version
            raise error from None
        self.active = Active(_index(found), found, self._now(), str(error))
        self._report(error)

    def _keep(self, error: FolderError | PlaybookError) -> None:
        """Keep the set in force. Report the error once."""
        if self.active.error == str(error):
            return
        self._seen = None if isinstance(error, FolderError) else self._seen
        self.active = replace(self.active, error=str(error))
        self._report(error)

    def _report(self, error: FolderError | PlaybookError) -> None:
        findings: tuple[Finding | str, ...] = (str(error),)
        if isinstance(error, PlaybookError):
            findings = error.findings
        active = self.active
        self._observers.notify(Reloaded(active.set.digest, len(active.playbooks.all), findings))

    def _renew_watch(self) -> None:
        """Watch the folder that currently has the name. A replaced folder has another inode."""
        try:
            inode = self._folder.stat().st_ino
        except OSError:
            inode = None
        if inode == self._watched:
            return
        self._stop_watch()
        self._watched = inode
        if inode is None:
            return
        self._observer = Observer()
        try:
            self._observer.schedule(
                _ChangeListener(self._changed), str(self._folder), recursive=True
            )
            self._observer.start()
        except OSError as error:  # no inotify watches left; polling continues
            log.warning("folder_watch_failed", effect="polling only", error=str(error))
            self._observer = None

    def _stop_watch(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None


def _index(found: PlaybookSet) -> PlaybookIndex:
    return PlaybookIndex(found.playbooks, found.silences, found.revision)


def _changes(before: PlaybookSet, now: PlaybookSet) -> dict[str, list[str]]:
    """Return the names that a set adds, changes and removes: at most 20 of each, and how many more."""
    old, new = _parts(before), _parts(now)
    found = {
        "added": sorted(new.keys() - old.keys()),
        "changed": sorted(name for name in new.keys() & old.keys() if new[name] != old[name]),
        "removed": sorted(old.keys() - new.keys()),
    }
    return {
        what: [
            *names[:_MAX_NAMES],
            *([f"and {len(names) - _MAX_NAMES} more"] if names[_MAX_NAMES:] else []),
        ]
        for what, names in found.items()
    }


def _parts(found: PlaybookSet) -> dict[str, object]:
    """Return the comparable content of a set by name: playbooks, silences and guardrails."""
    parts: dict[str, object] = {one.name: one.digest for one in found.playbooks}
    for one in found.silences:
        conditions = tuple(condition.text for condition in one.conditions)
        parts[f"silence/{one.name}"] = (one.match, one.until_ns, conditions)
    return {**parts, "guardrails": found.guardrails}


def _state(files: Files) -> tuple[object, ...]:
    """Return a value that differs if the content of the folder differs."""
    return files.digest, files.findings, files.revision


class _ChangeListener(FileSystemEventHandler):
    """Sets an event at each change. Opening a file, or closing it without writing, is not a change."""

    def __init__(self, changed: threading.Event) -> None:
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Set the event if the file system event is a change."""
        if event.event_type not in ("opened", "closed_no_write"):
            self._changed.set()
