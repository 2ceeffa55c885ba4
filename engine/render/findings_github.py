"""Findings as GitHub workflow commands, which annotate the lines of a pull request.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.model.safe_text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from engine.model.errors import Finding

_TEXT_ESCAPES = {"%": "%25", "\r": "%0D", "\n": "%0A"}
_PROPERTY_ESCAPES = _TEXT_ESCAPES | {":": "%3A", ",": "%2C"}


def findings_github_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield one workflow command for each finding."""
    for finding in findings:
        where = finding.where
        hint = f" ({finding.hint})" if finding.hint else ""
        title = _escape(f"tiercel {finding.code}", _PROPERTY_ESCAPES)
        place = (
            f"file={_escape(where.file, _PROPERTY_ESCAPES)},line={where.line},col={where.column}"
        )
        text = _escape(finding.what + hint, _TEXT_ESCAPES)
        yield f"::{finding.severity} {place},title={title}::{text}"


def _escape(text: str, escapes: dict[str, str]) -> str:
    """Escape text for a workflow command. GitHub decodes the escapes."""
    return "".join(escapes.get(letter) or printable(letter) for letter in text)
