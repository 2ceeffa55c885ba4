"""The findings of an import: parts that cannot be converted, and parts that work differently."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.actions.registry import load_actions
from engine.model.errors import Finding
from engine.render.text import short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.model.errors import Location

_MAX_MESSAGE = 400


class NotConvertibleError(Exception):
    """A part of a Talon rule that has no equivalent.

    hint: what to do instead.
    uses: the action that the hint recommends. The hint is dropped if this version does not have the action.
    """

    def __init__(self, what: str, hint: str | None = None, uses: str | None = None) -> None:
        super().__init__(what)
        self.hint = hint if uses is None or uses in load_actions() else None


class ImportReport:
    """Collects the findings of an import. errors: the number of errors so far."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self.errors = 0

    def error(self, where: Location, what: str, hint: str | None = None) -> None:
        """Report a part that cannot be converted."""
        self.errors += 1
        self._findings.append(Finding(where, "not-carried", short(what, _MAX_MESSAGE), hint))

    def warning(self, where: Location, what: str, hint: str | None = None) -> None:
        """Report a part that is converted but works differently, or that Talon ignores."""
        what = short(what, _MAX_MESSAGE)
        self._findings.append(Finding(where, "means-else", what, hint, "warning"))

    @property
    def findings(self) -> Iterator[Finding]:
        """All findings without duplicates, sorted by location."""
        return iter(sorted(dict.fromkeys(self._findings), key=lambda f: (f.where, f.code, f.what)))
