"""Secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.model.errors import PermanentError, TemporaryError

if TYPE_CHECKING:
    from pathlib import Path


_LONGEST_SECRET = 64 << 10
"""Bytes of the file of a secret."""


class Secrets:
    """Reads secrets from a folder, each a file, at the time of use."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, name: str) -> str:
        """The secret without its trailing newline.

        Raises TemporaryError if it is missing or empty, and PermanentError if its text cannot be a header or a
        URL (a blank line, a byte order mark); both name the secret and never repeat its value.
        """
        if self._folder is None:
            raise TemporaryError(f"secret {name}: no --secrets-dir is set", answered=True)
        try:
            with (self._folder / name).open("rb") as file:
                content = file.read(_LONGEST_SECRET + 1)
        except OSError as error:
            raise TemporaryError(f"secret {name}: {type(error).__name__}", answered=True) from None
        fault = _secret_fault(content)
        if fault:
            raise PermanentError(f"secret {name}: {fault}")
        text = content.decode("ascii").removesuffix("\n").removesuffix("\r")
        if not text:
            raise TemporaryError(f"secret {name}: the file is empty", answered=True)
        return text


def _secret_fault(content: bytes) -> str | None:
    """Why the content of a file cannot be a secret; None if it can."""
    if len(content) > _LONGEST_SECRET:
        return f"the file is larger than {_LONGEST_SECRET >> 10} KiB"
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return "the file begins with a byte order mark; save it as UTF-8 without one"
    line = content.removesuffix(b"\n").removesuffix(b"\r")
    if b"\n" in line or b"\r" in line:
        return "the file has more than one line, or a blank line"
    if not all(byte == 0x09 or 0x20 <= byte <= 0x7E for byte in line):  # noqa: PLR2004 - tab, visible ASCII
        return "the file has characters that are not visible ASCII"
    return None
