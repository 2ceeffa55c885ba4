"""What can go wrong, in the kinds that the engine treats differently.

For authors: a ``Finding`` with its place. For a step: ``TemporaryError`` (try again), ``PermanentError``
(give up), ``SkippedError`` (there is nothing to do it to) and ``RefusedError`` (it must not be done).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A place in a file; line and column count from 1, the file as reached from the current folder."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong (or risky) in a playbook folder, at its place."""

    where: Location
    code: str
    what: str
    hint: str | None = None
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.where}: {self.severity}: {self.what}{hint} [{self.code}]"


class PlaybookError(Exception):
    """A folder that cannot be used; carries every finding, in order of place."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(sorted(findings, key=lambda f: (f.where, f.code)))
        super().__init__("\n".join(str(finding) for finding in self.findings))


class EventError(ValueError):
    """What is no event; the sentence may go back to the sender, the hint says what to send."""

    def __init__(self, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.hint = hint


class TemporaryError(Exception):
    """It may work later.

    after: seconds that the other side asked us to wait at least, or None.
    again: seconds until we look again, where nobody was asked anything and the wait need not grow.
    answered: whether the other side gave an answer, which uses one of the step's attempts up; a server
        that is unreachable or overloaded (429, 503) gives none.
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
    """It will not work later either."""


class SkippedError(Exception):
    """There is nothing to do it to: the target is gone, replaced, terminating or none at all."""


class HeldError(Exception):
    """It may be done only with a person's leave. wait: seconds until it is denied."""

    def __init__(self, what: str, wait: float) -> None:
        super().__init__(what)
        self.wait = wait


class PostponedError(Exception):
    """It is done later, as a digest. wait: seconds until then."""

    def __init__(self, what: str, wait: float) -> None:
        super().__init__(what)
        self.wait = wait


class GoneError(SkippedError):
    """The target is not there any more: deleted, terminating, or another of its name in its place."""


class InternalError(Exception):
    """A fault of the program itself, found in a preview. cause: what was raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}")
        self.cause = cause


class RefusedError(Exception):
    """It must not be done: a guardrail, or a value that the parameter does not allow."""


class JournalError(Exception):
    """The journal cannot be written or read now: a full disk, a broken file. Nothing was accepted."""


class UnwritableError(JournalError):
    """What is to be written is no data that a journal can hold, whatever the state of the disk."""


class SettingsError(ValueError):
    """A setting that cannot be; the sentence names it and what to do."""
