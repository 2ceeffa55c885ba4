"""A thread that detects a disk that does not answer and journal files that were deleted."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.journal.sqlite.group_commit import GroupCommitWriter

INTERVAL = 1.0
"""Seconds between two checks."""
STALL_TIMEOUT = 5.0
"""Seconds without progress after which a commit counts as stalled. A disk that hangs reports no error."""

log = structlog.get_logger()


class Watchdog:
    """Makes the writer refuse work while a commit is stalled or a file is lost.

    Otherwise callers would block forever instead of failing over. A stalled batch may still reach the disk.
    If the sender repeats it, its run ids are known.

    files_error: returns the reason why written data would be lost, or None. now: a monotonic clock.
    component: of the lines of the log.
    """

    def __init__(
        self,
        writer: GroupCommitWriter,
        files_error: Callable[[], str | None],
        now: Callable[[], float] = time.monotonic,
        *,
        component: str = "journal",
    ) -> None:
        self._writer, self._files_error, self._now = writer, files_error, now
        self._unavailable, self._available = f"{component}_unavailable", f"{component}_available"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{component} watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._stopping.set()
        self._thread.join()

    def check(self) -> None:
        """Check once, and make the writer refuse or accept work."""
        previous = self._writer.refusal
        # in this order: on a disk that hangs, the check of the files would hang too
        error = self._stall_error() or self._files_error()
        self._writer.refuse(error)  # before the log, so that nothing is written after the line
        if error and error != previous:
            log.error(self._unavailable, error=error)
        elif previous and not error:
            log.info(self._available)

    def _stall_error(self) -> str | None:
        progress = self._writer.last_progress
        if progress is None or self._now() - progress <= STALL_TIMEOUT:
            return None
        return f"the journal cannot be written: its disk has not answered for {STALL_TIMEOUT:g} seconds"

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL):
            self.check()
