"""The threads of a pool of workers."""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()


class WorkerThreads:
    """A fixed number of threads that run functions in the order in which they are given.

    A ThreadPoolExecutor takes 25 us more for each function. size: the number of threads. name: of the threads,
    without a number.
    """

    def __init__(self, size: int, name: str) -> None:
        self._functions: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}_{number}", daemon=True)
            for number in range(size)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def run(self, function: Callable[[], None]) -> None:
        """Run a function in one of the threads, as soon as one is free."""
        self._functions.put(function)

    def stop(self, *, wait: bool) -> None:
        """End the threads after the functions that were given. wait: return after that."""
        for _ in self._threads:
            self._functions.put(None)
        for thread in self._threads:
            if wait and thread.is_alive():
                thread.join()

    def _run(self) -> None:
        while (function := self._functions.get()) is not None:
            try:
                function()
            except BaseException:  # a bug must not end the thread, because the pool would shrink
                log.exception("worker_failed")
