"""Collects the findings of one document, each with its file, line and column."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Literal

from engine.model.errors import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.language.yaml_source import Document, Path


MAX_ERRORS = 200
"""Errors reported per document. Nobody reads more at once, and finding 9,000 of them takes seconds."""
MAX_EXPRESSIONS = 1_000
"""Regular expressions, globs and JSONPaths per document. Each takes up to 0.3 ms to compile."""
MAX_INSTRUCTIONS = 200_000
"""Total RE2 instructions per document. They compile within 0.2 s."""
_SUPPRESSING = ("yaml-trap", "missing-value")
"""Codes of findings about a value that is not what the author meant. Other findings there would be noise."""


class TooManyFindingsError(Exception):
    """A document has too many errors or expressions, so the rest of it is not compiled.

    entries: the findings so far, including one for the exceeded limit.
    """

    def __init__(self, entries: list[Finding]) -> None:
        super().__init__("too many findings")
        self.entries = entries


class Findings:
    """The findings of one document.

    A value with a YAML trap or a missing substitution keeps only that finding; later findings at the same
    place are dropped.

    entries: the findings, in the order in which they were added. expressions, instructions: the number of
    expressions and the total RE2 instructions counted so far.
    """

    def __init__(self, document: Document, yaml_findings: Iterable[Finding] = ()) -> None:
        self.entries: list[Finding] = []
        self.expressions = 0
        self.instructions = 0
        self._document = document
        self._suppressed_places = {f.where for f in yaml_findings if f.code in _SUPPRESSING}
        self._suppressed_error = False
        self._errors = 0

    def add(
        self,
        path: Path,
        code: str,
        what: str,
        hint: str | None = None,
        *,
        key: bool = False,
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        """Add a finding about the value at ``path``, or about the key there (``key=True``).

        Raises TooManyFindingsError at the first error past MAX_ERRORS.
        """
        where = self._document.at(path, key=key)
        if where in self._suppressed_places:
            self._suppressed_error = self._suppressed_error or severity == "error"
            return
        self.entries.append(Finding(where, code, what, hint, severity))
        self._errors += severity == "error"
        if self._errors > MAX_ERRORS:
            what = f"the document has more than {MAX_ERRORS} errors; the rest is not checked"
            self.entries[-1] = Finding(where, "too-many-mistakes", what)
            raise TooManyFindingsError(self.entries)

    def suppress_reported_places(self) -> None:
        """From now on, drop findings where a missing substitution was reported."""
        self._suppressed_places |= {f.where for f in self.entries if f.code in _SUPPRESSING}

    def count_expression(self, path: Path, instructions: int) -> None:
        """Count one expression with this number of RE2 instructions (0 for a JSONPath).

        Raises TooManyFindingsError past MAX_EXPRESSIONS or MAX_INSTRUCTIONS.
        """
        self.expressions += 1
        self.instructions += instructions
        if self.expressions > MAX_EXPRESSIONS:
            fault = f"has more than {MAX_EXPRESSIONS:,} expressions"
        elif self.instructions > MAX_INSTRUCTIONS:
            fault = "has expressions that are too large in total"
        else:
            return
        what = f"the document {fault}; the rest is not checked"
        self.entries.append(Finding(self._document.at(path), "bad-regex", what))
        raise TooManyFindingsError(self.entries)

    @property
    def has_errors(self) -> bool:
        """Whether the document has an error, suppressed ones included."""
        return self._suppressed_error or any(f.severity == "error" for f in self.entries)


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the known word that the author probably meant, or None."""
    by_low = {known.lower(): known for known in words}
    close = difflib.get_close_matches(word.lower()[:100], by_low, n=1, cutoff=0.6)
    if close:
        return by_low[close[0]]
    return next((k for low, k in by_low.items() if low.startswith(word.lower()) and word), None)


def mistyped(word: str, words: Iterable[str]) -> str | None:
    """Return the known word that differs from ``word`` by one or two letters, or None."""
    by_low = {known.lower(): known for known in words}
    close = difflib.get_close_matches(word.lower()[:100], by_low, n=1, cutoff=0.9)
    return by_low[close[0]] if close else None
