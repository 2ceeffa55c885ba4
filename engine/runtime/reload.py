"""The folder watched: compile all, then swap one reference, or keep the old set and say why.

ConfigMap mounts lie to watchers: the directory is watched, never a file, and besides its content is read
again every few seconds, because inotify does not see a mount that is replaced.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from engine.actions.registry import load_actions
from engine.language.folder import VALUES, Files, FolderError, read_bounded, read_files
from engine.language.loader import Loader, PlaybookSet
from engine.model.errors import JournalError, PlaybookError
from engine.planning.matcher import PlaybookIndex
from engine.telemetry.events import Reloaded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.journal.protocol import State
    from engine.model.errors import Finding
    from engine.telemetry.events import Observers

QUIET = 0.2
"""Seconds without a change after which a folder is taken to be written."""
POLL = 2.0
"""Seconds between readings of the folder's content, whatever the watch says."""
_NAMED = 20
"""Names in a log line about what changed."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Active:
    """The set in force. loaded_at: epoch seconds. error: why the folder's own set is not, if it is not."""

    playbooks: PlaybookIndex
    set: PlaybookSet
    loaded_at: float
    error: str | None = None


class Reloader:
    """Keeps ``active`` up to date with a folder. Raises PlaybookError from ``start`` where nothing is usable."""

    def __init__(
        self,
        folder: Path,
        values: Path | None,
        journal: State,
        observers: Observers,
        now: Callable[[], float],
    ) -> None:
        self._folder, self._values = folder, values
        self._journal, self._observers, self._now = journal, observers, now
        self._loader = Loader(load_actions())
        self._seen: tuple[object, ...] | None = None
        self._changed, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tiercel-reload", daemon=True)
        self._observer: Any = None
        self._watched: int | None = None
        self.active: Active

    def start(self) -> None:
        """Load the set, or the last good one, and begin to watch."""
        self._rewatch()  # before the reading, or an edit right after it would wait for the poll
        try:
            self._load()
        except BaseException:
            self._unwatch()
            raise
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopping.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._unwatch()

    def ended(self) -> str | None:
        """The name of the thread that watches, where it has ended."""
        return None if self._thread.is_alive() else self._thread.name

    def check(self) -> None:
        """Read the folder now, and take its set if it has changed and stands still."""
        try:
            files = self._settled()
            if files is None or _state(files) == self._seen:
                return
            self._seen = _state(files)
            self._take(files)
        except (FolderError, PlaybookError) as error:
            self._keep(error)
        except (
            JournalError
        ) as error:  # a restart would not know the set: try again at the next poll
            self._seen = None
            self._keep(FolderError(f"the set cannot be kept: {error}"))

    def _load(self) -> None:
        try:
            files = self._read()
            self._seen = _state(files)
            self._take(files)
        except (FolderError, PlaybookError) as error:
            self._take_last(error)

    def _watch(self) -> None:
        while not self._stopping.is_set():
            self._rewatch()
            if self._changed.wait(POLL):
                self._changed.clear()
                latest = time.monotonic() + POLL  # a file that never stands still holds up nothing
                while self._changed.wait(QUIET) and time.monotonic() < latest:
                    self._changed.clear()
            if not self._stopping.is_set():
                self.check()

    def _settled(self) -> Files | None:
        """The files, read twice alike; None where they are being written."""
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
        """The folder's files; those of --values stand in for the root's. Raises FolderError."""
        files = read_files([self._folder])
        if not files.findings and not files.files.keys() - {VALUES}:
            raise FolderError(f"{self._folder} has no playbook files")
        if self._values is None:
            return files
        return replace(files, files={**files.files, VALUES: read_bounded(self._values)})

    def _take(self, files: Files) -> None:
        """Put the set in force. Raises PlaybookError, FolderError."""
        found = self._usable(files)
        active = Active(PlaybookIndex(found.playbooks, found.silences), found, self._now())
        self._journal.save_set(found.digest, files.files)
        before, self.active = getattr(self, "active", None), active
        self._observers.notify(
            Reloaded(
                found.digest,
                len(found.playbooks),
                guardrails=found.guardrails,
                changes=None if before is None else _changes(before.set, found),
            )
        )

    def _usable(self, files: Files) -> PlaybookSet:
        values = None
        if self._values and VALUES in files.files:
            values = (str(self._values), files.files[VALUES])
        found = self._loader.load(files, values).usable()
        if not found.playbooks:
            raise FolderError(f"{self._folder} has no playbooks")
        return found

    def _take_last(self, error: FolderError | PlaybookError) -> None:
        """Put the last good set in force, as the journal has it; raises the error without one."""
        last = self._journal.last_set()
        if last is None:
            raise error
        try:
            found = self._usable(Files(str(self._folder), last[1]))
        except (FolderError, PlaybookError):  # another version took it
            raise error from None
        self.active = Active(
            PlaybookIndex(found.playbooks, found.silences), found, self._now(), str(error)
        )
        self._tell(error)

    def _keep(self, error: FolderError | PlaybookError) -> None:
        """Keep the set in force, and say once why."""
        if self.active.error == str(error):
            return
        self._seen = None if isinstance(error, FolderError) else self._seen
        self.active = replace(self.active, error=str(error))
        self._tell(error)

    def _tell(self, error: FolderError | PlaybookError) -> None:
        findings: tuple[Finding | str, ...] = (str(error),)
        if isinstance(error, PlaybookError):
            findings = error.findings
        active = self.active
        self._observers.notify(Reloaded(active.set.digest, len(active.playbooks.all), findings))

    def _rewatch(self) -> None:
        """Watch the folder that has the name now; a replaced one has another inode."""
        try:
            inode = self._folder.stat().st_ino
        except OSError:
            inode = None
        if inode == self._watched:
            return
        self._unwatch()
        self._watched = inode
        if inode is None:
            return
        self._observer = Observer()
        try:
            self._observer.schedule(_Changes(self._changed), str(self._folder), recursive=True)
            self._observer.start()
        except OSError as error:  # no inotify watches left: reading every few seconds goes on
            log.warning("cannot watch the folder, polling only", error=str(error))
            self._observer = None

    def _unwatch(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None


def _changes(before: PlaybookSet, now: PlaybookSet) -> dict[str, list[str]]:
    """The names of what a set adds, changes and removes; at most 20 each, and how many more."""
    old, new = _parts(before), _parts(now)
    found = {
        "added": sorted(new.keys() - old.keys()),
        "changed": sorted(name for name in new.keys() & old.keys() if new[name] != old[name]),
        "removed": sorted(old.keys() - new.keys()),
    }
    return {
        what: [*names[:_NAMED], *([f"and {len(names) - _NAMED} more"] if names[_NAMED:] else [])]
        for what, names in found.items()
    }


def _parts(found: PlaybookSet) -> dict[str, object]:
    """What a set consists of, by name: playbooks, silences and the guardrails."""
    parts: dict[str, object] = {one.name: one.digest for one in found.playbooks}
    for one in found.silences:
        conditions = tuple(condition.text for condition in one.conditions)
        parts[f"silence/{one.name}"] = (one.match, one.until_ns, conditions)
    return {**parts, "guardrails": found.guardrails}


def _state(files: Files) -> tuple[object, ...]:
    """What makes one reading of the folder differ from another."""
    return files.digest, files.findings


class _Changes(FileSystemEventHandler):
    """Sets an event at each change; openings and closings without writing are none."""

    def __init__(self, changed: threading.Event) -> None:
        self._changed = changed

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Note a change."""
        if event.event_type not in ("opened", "closed_no_write"):
            self._changed.set()
