"""Run the threads of a process on one CPU.

The interpreter runs one thread at a time. If the threads have several CPUs, a thread that is woken starts on
another CPU than its waker. There it waits for the interpreter lock, and its data is not in the cache. With 16
attempts, a step of ``node.cordon`` then took 20 context switches and 1.7 ms of CPU time, instead of 6 context
switches and 1.3 ms (benchmarks/actions.py).
"""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

_THREADS = Path("/proc/self/task")


def run_on_one_cpu() -> None:
    """Let all threads except the main thread run on one CPU, which each call chooses again.

    Call this function regularly, because the CPU can be busy with work that cannot move to another one. The
    main thread keeps all CPUs that the process may use.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) == 1:
        return
    chosen = [random.choice(cpus)]  # noqa: S311 - not a secret
    main = os.getpid()
    for thread in _THREADS.iterdir():
        if int(thread.name) != main:
            with contextlib.suppress(OSError):  # it has ended, or the system does not allow it
                os.sched_setaffinity(int(thread.name), chosen)
