"""Errors, and findings in playbooks. Each class is treated in its own way.

Authors get a ``Finding`` with its location. A step ends with ``TemporaryError`` (retry), ``PermanentError``
(fail), ``SkippedError`` (the target does not exist) or ``RefusedError`` (a guardrail does not allow it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable


class Location(msgspec.Struct, frozen=True, order=True):
    """A position in a file. Line and column count from 1. The path is relative to the current folder."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Finding(msgspec.Struct, frozen=True):
    """An error or a warning in a playbook folder, with its location.

    code: a stable slug, for example ``unknown-key``. what: the message. hint: what to write instead.
    """

    where: Location
    code: str
    what: str
    hint: str | None = None
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.where}: {self.severity}: {self.what}{hint} [{self.code}]"


class PlaybookError(Exception):
    """A playbook folder has errors. ``findings`` has all findings, sorted by location."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(sorted(findings, key=lambda f: (f.where, f.code)))
        super().__init__("\n".join(str(finding) for finding in self.findings))


class EventError(ValueError):
    """A value is not an event. The sender can see the message. The hint says what to send."""

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.hint = hint


class TemporaryError(Exception):
    """An attempt failed and is retried.

    after: minimum wait in seconds that the server asked for, or None.
    again: constant wait in seconds, if no request was sent; the wait does not grow. None otherwise.
    answered: whether the server answered, which uses one of the step's attempts. An unreachable or
        overloaded server (429, 503) does not answer.
    """

    def __init__(
        self,
        what: str,
        *,
        after: float | None = None,
        again: float | None = None,
        answered: bool = False,
    ) -> None:
        super().__init__(what)
        self.after, self.again = after, again
        self.answered = answered


class PermanentError(Exception):
    """An attempt failed, and a retry would fail, too."""


class MissingRightError(PermanentError):
    """The API server answers that the engine, or the ServiceAccount of ``runAs``, does not have a right."""


class SkippedError(Exception):
    """The step has no target: it was deleted or replaced, is terminating, or the event does not name one."""


class HeldError(Exception):
    """The step is held until a person approves it. wait: seconds until it is denied."""

    def __init__(self, what: str, wait: float) -> None:
        super().__init__(what)
        self.wait = wait


class PostponedError(Exception):
    """The step continues later: it is not complete, or its message joins a digest. wait: seconds."""

    def __init__(self, what: str, wait: float) -> None:
        super().__init__(what)
        self.wait = wait


class GoneError(SkippedError):
    """The target was deleted, is terminating, or was replaced by another object of the same name."""


class InternalError(Exception):
    """A bug of the engine, found in a preview. cause: the exception."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.cause = cause


class RefusedError(Exception):
    """A guardrail or the rule of a parameter does not allow the step."""


class JournalError(Exception):
    """The journal cannot be written or read, for example because the disk is full. Nothing was accepted."""


class JournalUnavailableError(JournalError):
    """The server of the journal does not answer or refuses to write. The same write can succeed later.

    It is not known whether it was written.
    """


class UnwritableError(JournalError):
    """The journal cannot store a value, for example as JSON. A retry would fail, too."""


def file_error(error: Exception) -> str:
    """Return ``FILE: reason`` for an OSError of a file, otherwise the message of the error."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


class SettingsError(ValueError):
    """A setting is not valid. The message names the setting and says what to do."""
