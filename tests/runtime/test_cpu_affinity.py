"""The threads of the worker process share one CPU, and its main thread keeps all of them."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.engine import PATIENCE, ROOT, engine, wait_until
from tests.support.intake import PLAYBOOK

THREADS = """
import json, os, threading
from engine.runtime import cpu_affinity
end, before = threading.Event(), sorted(os.sched_getaffinity(0))
threads = [threading.Thread(target=end.wait, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()
chosen = []
def choose(times):
    for _ in range(times):
        cpu_affinity.run_on_one_cpu()
        chosen.append([sorted(os.sched_getaffinity(one.native_id)) for one in threads])
"""
CHOOSE = """
choose(30)
result = {"before": before, "chosen": chosen, "main": sorted(os.sched_getaffinity(0))}
"""
NARROWED = """
choose(5)
for cpu in before:
    os.sched_setaffinity(0, [cpu])  # as an operator does with taskset
    choose(1)
result = {"before": before, "chosen": chosen[5:]}
"""
WITHOUT_PROC = """
cpu_affinity._THREADS = cpu_affinity.Path("/proc/self/missing")
choose(2)
result = {"before": before, "chosen": chosen}
"""
REFUSED = """
import ctypes, struct
libc = ctypes.CDLL(None)
# load the number of the system call; if it is sched_setaffinity, or the next one, answer EPERM; else allow
code = [(0x20, 0, 0, 0), (0x15, 2, 0, NUMBER), (0x15, 1, 0, NUMBER + 1), (0x06, 0, 0, 0x7FFF0000),
        (0x06, 0, 0, 0x00050001)]
program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
class Filter(ctypes.Structure):
    _fields_ = [("size", ctypes.c_ushort), ("code", ctypes.c_void_p)]
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
for thread_sync in [1]:  # seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC)
    filter_ = Filter(len(code), ctypes.addressof(program))
    assert libc.syscall(SECCOMP, 1, thread_sync, ctypes.byref(filter_)) == 0
try:
    os.sched_setaffinity(0, before)
    refused = False
except PermissionError:
    refused = True
cpu_affinity.run_on_one_cpu()
result = {"refused": refused}
"""
_NUMBERS = {"x86_64": (203, 317), "aarch64": (122, 277)}
"""Machine -> the numbers of the system calls sched_setaffinity and seccomp."""


def run(program):
    """Run a program after THREADS. Return its result."""
    text = f"{THREADS}{program}\nend.set()\nprint(json.dumps(result))"
    ended = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, capture_output=True, timeout=PATIENCE, check=False
    )
    assert not ended.returncode, ended.stderr.decode()
    return json.loads(ended.stdout)


def test_all_threads_but_the_main_thread_get_the_same_cpu():
    found = run(CHOOSE)
    assert found["main"] == found["before"]
    for first, *others in found["chosen"]:
        assert len(first) == 1
        assert first[0] in found["before"]
        assert others == [first, first]
    used = {first[0] for first, *_ in found["chosen"]}
    assert len(used) > 1 or len(found["before"]) == 1  # a busy CPU is left again


def test_the_threads_follow_when_the_process_is_restricted_to_another_cpu():
    found = run(NARROWED)
    assert found["chosen"] == [[[cpu]] * 3 for cpu in found["before"]]


def test_without_proc_the_threads_keep_all_cpus():
    found = run(WITHOUT_PROC)
    assert found["chosen"] == [[found["before"]] * 3] * 2


@pytest.mark.skipif(platform.machine() not in _NUMBERS, reason="the numbers are not known")
def test_a_system_that_refuses_the_calls_changes_nothing():
    number, seccomp = _NUMBERS[platform.machine()]
    found = run(REFUSED.replace("NUMBER", str(number)).replace("SECCOMP", str(seccomp)))
    assert found["refused"]


def test_the_worker_process_runs_its_threads_on_one_cpu(tmp_path):
    with engine(tmp_path, {"p.yaml": PLAYBOOK}, "--dry-run") as running:
        front, worker = running.pids
        main = os.sched_getaffinity(worker)
        wait_until(lambda: threads_of(worker) and {len(one) for one in threads_of(worker)} == {1})
        assert os.sched_getaffinity(worker) == main
        assert all(one == main for one in threads_of(front))


def threads_of(pid):
    """Return the CPUs of each thread of a process except its main thread."""
    found = []
    for thread in {int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()} - {pid}:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            found.append(os.sched_getaffinity(thread))
    return found
