"""The exit codes of ``tiercel``, and how a command reports an error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

from engine.render.text import print_line

if TYPE_CHECKING:
    from collections.abc import Iterable

FINDINGS = 1
"""The input has errors, or the engine refused the request."""
USAGE = 2
"""Wrong options, a file or engine that cannot be reached, or an internal error."""
WARNINGS = 3
"""There are warnings, and --strict was given."""


def fail(message: str, code: int, hint: str | None = None) -> NoReturn:
    """Print an error to stderr, with the hint on its own line, and exit.

    hint: the next command to type, or what to change.
    """
    print_line(message, err=True)
    if hint:
        print_line(hint, err=True)
    sys.exit(code)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message, with a leading space: the most similar known name, or nothing."""
    from engine.language.findings import nearest  # noqa: PLC0415 - --help must be fast

    near = nearest(name, known)
    return f" Did you mean `{near}`?" if near else ""
