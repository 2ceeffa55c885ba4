"""Findings as GitHub's workflow commands, which annotate the lines of a pull request.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.model.safe_text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from engine.model.errors import Finding

_IN_TEXT = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_IN_PROPERTY = _IN_TEXT | {":": "%3A", ",": "%2C"}


def findings_github_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """A workflow command a finding."""
    for finding in findings:
        where = finding.where
        hint = f" ({finding.hint})" if finding.hint else ""
        title = _escaped(f"tiercel {finding.code}", _IN_PROPERTY)
        place = f"file={_escaped(where.file, _IN_PROPERTY)},line={where.line},col={where.column}"
        text = _escaped(finding.what + hint, _IN_TEXT)
        yield f"::{finding.severity} {place},title={title}::{text}"


def _escaped(text: str, letters: dict[str, str]) -> str:
    """Text for a command; GitHub decodes the letters, which the log does not show otherwise."""
    return "".join(letters.get(letter) or printable(letter) for letter in text)
