"""Secrets that steps refer to by name: one file each in ``--secrets-dir``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.model.errors import PermanentError, TemporaryError

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES = 64 << 10
"""Bytes of a secret's file."""


class Secrets:
    """Reads secrets from the files of a folder, each time that a step uses one.

    A changed file therefore takes effect without a restart.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, name: str, *, lines: bool = False) -> str:
        """Return a secret without its trailing newline. lines: the secret may have several lines (a JSON key).

        Raises TemporaryError if the file is missing or empty, PermanentError if its text cannot be a header or
        a URL (a blank line, a byte order mark). Both messages contain the name, never the value.
        """
        if self._folder is None:
            raise TemporaryError(f"secret {name}: --secrets-dir is not set", answered=True)
        try:
            with (self._folder / name).open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise TemporaryError(
                f"secret {name}: {reason} in --secrets-dir", answered=True
            ) from None
        fault = _fault(content.replace(b"\r", b"").replace(b"\n", b" ") if lines else content)
        if fault:
            raise PermanentError(f"secret {name}: {fault}")
        text = content.decode("ascii").removesuffix("\n").removesuffix("\r")
        if not text:
            raise TemporaryError(f"secret {name}: the file is empty", answered=True)
        return text


def _fault(content: bytes) -> str | None:
    """Return why the content of a file is not a valid secret, or None."""
    if len(content) > _MAX_BYTES:
        return f"the file is larger than {_MAX_BYTES >> 10} KiB"
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return "the file begins with a byte order mark; save it as UTF-8 without one"
    line = content.removesuffix(b"\n").removesuffix(b"\r")
    if b"\n" in line or b"\r" in line:
        return "the file has more than one line, or a blank line"
    if not all(byte == 0x09 or 0x20 <= byte <= 0x7E for byte in line):  # noqa: PLR2004 - tab, visible ASCII
        return "the file has characters that are not visible ASCII"
    return None
