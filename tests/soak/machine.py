"""Changes to the machine below an engine: a small disk, a clock that is set."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import subprocess

import pytest

STEPPED = """\
import mmap, os, struct, time

_file = os.open(os.environ["STEPPED_CLOCK"], os.O_RDONLY)
_shared = mmap.mmap(_file, 8, prot=mmap.PROT_READ)
_real = time.time
time.time = lambda: _real() + struct.unpack("d", _shared)[0]
"""
"""Python's start-up hook (sitecustomize): the test sets the time in every process of the engine."""


class Clock:
    """The wall clock of the engine. The monotonic clock continues, as on a machine whose time is set.

    The machine's own clock is everybody's, so it is Python's ``time.time`` that is stepped.
    """

    def __init__(self, folder):
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(STEPPED)
        path = folder / "offset"
        path.write_bytes(struct.pack("d", 0.0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 8)
        self._folder, self._path = folder, path

    def env(self, root):
        """Return the variables that the engine needs."""
        return {"PYTHONPATH": f"{self._folder}:{root}", "STEPPED_CLOCK": str(self._path)}

    def step(self, seconds):
        """Set the clock forward or back."""
        (before,) = struct.unpack("d", self._shared)
        self._shared[:] = struct.pack("d", before + seconds)


@contextlib.contextmanager
def small_disk(folder, megabytes):
    """Mount a file system of that size, and return a function that enlarges it. Requires root."""
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("only root can mount a small file system")
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
    try:
        yield lambda size: _mount("-o", f"remount,size={size}m", str(folder))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)
