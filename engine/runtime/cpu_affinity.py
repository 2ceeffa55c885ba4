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

    Call this function regularly, because the CPU can be busy with work that cannot move to another one, and the
    process can be moved to other CPUs. The main thread keeps all CPUs that the process may use. If the system
    does not allow it, the threads keep them, too.
    """
    main = os.getpid()
    with contextlib.suppress(OSError):
        chosen = [random.choice([*os.sched_getaffinity(0)])]  # noqa: S311 - not a secret
        for thread in (int(entry.name) for entry in _THREADS.iterdir()):
            if thread != main:
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    os.sched_setaffinity(thread, chosen)
