"""How the parts of the compiler tell what is wrong, without knowing files and lines."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Literal, Protocol

from engine.model.errors import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.language.yaml_source import Document, Path


MOST = 200
"""Mistakes of one document that are told: nobody reads more at once, and finding 9,000 takes seconds."""


MOST_EXPRESSIONS = 1_000
"""Regular expressions, globs and JSONPaths of one document; each takes up to 0.3 ms to compile."""
LARGEST_EXPRESSIONS = 200_000
"""Instructions of the RE2 expressions of one document together, which compile within 0.2 s."""


class Report(Protocol):
    """Takes a finding about the value at a path of the document, or about the key there."""

    def expression(self, path: Path, size: int) -> None:
        """Count an expression of so many instructions. Raises TooManyMistakesError past the bounds."""
        ...

    def __call__(
        self,
        path: Path,
        code: str,
        what: str,
        hint: str | None = None,
        *,
        key: bool = False,
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        """Report one finding."""
        ...


class TooManyMistakesError(Exception):
    """The rest of a document is not read: it has too many mistakes or expressions. found: what was told."""

    def __init__(self, found: list[Finding]) -> None:
        super().__init__("too many mistakes")
        self.found = found


class Findings:
    """Collects findings of a document at their places; a place with a YAML trap keeps only that.

    Raises TooManyMistakesError at the first error past MOST, and at the first expression past the bounds.
    """

    def __init__(self, document: Document, told: Iterable[Finding] = ()) -> None:
        self._document = document
        self._trapped = {f.where for f in told if f.code in ("yaml-trap", "missing-value")}
        self.found: list[Finding] = []
        self.muted = False
        self._errors = 0
        self._expressions = 0
        self._instructions = 0

    def __call__(
        self,
        path: Path,
        code: str,
        what: str,
        hint: str | None = None,
        *,
        key: bool = False,
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        """Report one finding."""
        where = self._document.at(path, key=key)
        if where in self._trapped:
            self.muted = self.muted or severity == "error"
        else:
            self.found.append(Finding(where, code, what, hint, severity))
            self._errors += severity == "error"
            if self._errors > MOST:
                what = f"the document has more than {MOST} mistakes; what follows is not looked at"
                self.found[-1] = Finding(where, "too-many-mistakes", what)
                raise TooManyMistakesError(self.found)

    def expression(self, path: Path, size: int) -> None:
        """Count an expression of so many instructions. Raises TooManyMistakesError past the bounds."""
        self._expressions += 1
        self._instructions += size
        many = self._expressions > MOST_EXPRESSIONS
        if many or self._instructions > LARGEST_EXPRESSIONS:
            bound = f"has more than {MOST_EXPRESSIONS:,} expressions"
            large = "has expressions that are too large together"
            what = f"the document {bound if many else large}; what follows is not read"
            self.found.append(Finding(self._document.at(path), "bad-regex", what))
            raise TooManyMistakesError(self.found)

    @property
    def failed(self) -> bool:
        """Whether an error is among them, or was told as a trap already."""
        return self.muted or any(finding.severity == "error" for finding in self.found)


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The word that was probably meant, or None."""
    by_low = {known.lower(): known for known in words}
    close = difflib.get_close_matches(word.lower()[:100], by_low, n=1, cutoff=0.6)
    if close:
        return by_low[close[0]]
    return next((k for low, k in by_low.items() if low.startswith(word.lower()) and word), None)


def mistyped(word: str, words: Iterable[str]) -> str | None:
    """The word that this one is but for a letter or two, or None."""
    by_low = {known.lower(): known for known in words}
    close = difflib.get_close_matches(word.lower()[:100], by_low, n=1, cutoff=0.9)
    return by_low[close[0]] if close else None
