"""What an import has to say: what was lost, and what means something else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.actions.registry import load_actions
from engine.model.errors import Finding
from engine.render.text import short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.model.errors import Location


class NotCarriedError(Exception):
    """Something of Talon's that has no counterpart; the sentence says what, the hint what to do.

    uses: the action that the hint needs; without it in this version there is no hint.
    """

    def __init__(self, what: str, hint: str | None = None, uses: str | None = None) -> None:
        super().__init__(what)
        self.hint = hint if uses is None or uses in load_actions() else None


class ImportReport:
    """Collects the findings of an import."""

    def __init__(self) -> None:
        self.found: list[Finding] = []
        self.losses = 0

    def lost(self, where: Location, what: str, hint: str | None = None) -> None:
        """Something could not be carried over."""
        self.losses += 1
        self.found.append(Finding(where, "not-carried", short(what, 400), hint))

    def differs(self, where: Location, what: str, hint: str | None = None) -> None:
        """Something was carried over but means something else, or was never obeyed by Talon."""
        self.found.append(Finding(where, "means-else", short(what, 400), hint, "warning"))

    @property
    def findings(self) -> Iterator[Finding]:
        """All of them, by place, each once."""
        return iter(sorted(dict.fromkeys(self.found), key=lambda f: (f.where, f.code, f.what)))
