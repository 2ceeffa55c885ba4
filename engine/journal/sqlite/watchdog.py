"""The thread that looks whether the journal still is what those who write to it take it for."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.journal.sqlite.group_commit import GroupCommitWriter

EVERY = 1.0
"""Seconds between two looks."""
PATIENCE = 5.0
"""Seconds that the disk may take to answer: one that fails says so, and one that hangs says nothing at all."""

log = structlog.get_logger()


class Watchdog:
    """Has the writer refuse work while a commit hangs or the file is lost, and take it again once that is over.

    Who waits would get no answer else, and could not send his events elsewhere or again. What hangs may be
    written all the same: sent again, it is known. lost: why what is written would be. now: a monotonic clock.
    """

    def __init__(
        self,
        writer: GroupCommitWriter,
        lost: Callable[[], str | None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer, self._lost, self._now = writer, lost, now
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._stopping.set()
        self._thread.join()

    def look(self) -> None:
        """Look once."""
        was = self._writer.fault
        fault = self._slow() or self._lost()  # in this order, for a disk that hangs may not tell
        if fault and fault != was:
            log.error("journal", error=fault)
        elif was and not fault:
            log.info("journal is back")
        self._writer.refuse(fault)

    def _slow(self) -> str | None:
        since = self._writer.waits_since
        if since is None or self._now() - since <= PATIENCE:
            return None
        return f"the journal cannot be written: its disk has not answered for {PATIENCE:g} seconds"

    def _run(self) -> None:
        while not self._stopping.wait(EVERY):
            self.look()
