"""A guard for the code of notification services: it limits what a library may do in the current thread.

Within ``guarded``, the thread cannot start programs, open files outside of the Python installation, change
files, or open sockets. Our own transport opens sockets within ``sockets_allowed``. The guard is an audit hook
(PEP 578). Python cannot remove such a hook, so it is installed at first use. In other threads it costs one
attribute look-up.

The guard is a second line of defense. It sees what Python code does, not what a C extension does by itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import zoneinfo
from typing import TYPE_CHECKING, Any

from engine.model.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_REFUSED_PREFIXES = ("subprocess.", "pty.", "shutil.", "tempfile.", "ctypes.", "syslog.", "ftplib.")
_REFUSED = frozenset(
    {
        "os.chmod", "os.chown", "os.exec", "os.fork", "os.forkpty", "os.kill", "os.link", "os.mkdir",
        "os.posix_spawn", "os.putenv", "os.remove", "os.rename", "os.rmdir", "os.spawn", "os.symlink",
        "os.system", "os.truncate", "socket.bind", "socket.sendmsg", "socket.sendto", "sqlite3.connect",
        "urllib.Request",
    }
)  # fmt: skip
"""Audit events (docs.python.org, Audit events table) that are always refused."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_state = threading.local()


class GuardError(RefusedError, PermissionError):
    """Code of a service tried to do what the guard does not allow. Libraries may handle it as an OSError."""


@contextlib.contextmanager
def guarded() -> Iterator[list[str]]:
    """Guard the current thread. Yield the list of what was refused, because a library may hide the error."""
    _install()
    refused: list[str] = []
    _state.refused = refused
    try:
        yield refused
    finally:
        _state.refused = None


@contextlib.contextmanager
def sockets_allowed() -> Iterator[None]:
    """Allow the current thread to connect, for our own transport."""
    before = getattr(_state, "sockets", False)
    _state.sockets = True
    try:
        yield
    finally:
        _state.sockets = before


@functools.cache
def _install() -> None:
    readable = _readable_folders()
    state = _state  # globals are gone when the interpreter exits

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        refused: list[str] | None = getattr(state, "refused", None)
        if refused is None:
            return
        what = _fault(event, arguments, readable, sockets=getattr(state, "sockets", False))
        if what:
            refused.append(what)
            raise GuardError(f"the service must not {what}")

    sys.addaudithook(hook)


def _readable_folders() -> tuple[str, ...]:
    """Return the folders with the modules of Python and of its packages, and with the time zones."""
    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, *zoneinfo.TZPATH, *sys.path}
    return tuple(os.path.realpath(place) + os.sep for place in places if place)


def _fault(
    event: str, arguments: tuple[Any, ...], readable: tuple[str, ...], *, sockets: bool
) -> str | None:
    """Return what an audit event does that is not allowed, in a few words, or None."""
    if event == "open":
        return _open_fault(*arguments, readable=readable)
    if event == "socket.connect" and not sockets:
        return "open a connection of its own"
    if event in _REFUSED or event.startswith(_REFUSED_PREFIXES):
        return f"do this: {event}"
    return None


def _open_fault(
    path: Any,
    mode: Any,
    flags: int,
    *,
    readable: tuple[str, ...],
    real: Callable[[Any], Any] = os.path.realpath,
) -> str | None:
    """Return why a file must not be opened, or None. path: may be the number of an open file."""
    del mode
    if isinstance(path, int):
        return None
    name = os.fsdecode(path)
    if flags & _WRITES:
        return "write a file"
    return None if real(name).startswith(readable) else "open a local file"
