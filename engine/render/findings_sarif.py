"""Findings as SARIF 2.1.0, which code hosts show next to the lines of a pull request.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from engine.model.safe_text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.model.errors import Finding

_LINK = re.compile(r"\[(?=[^\]]*\]\()")
_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def findings_sarif(findings: Sequence[Finding], version: str) -> dict[str, Any]:
    """Return a SARIF log with one run. version: the version of Tiercel."""
    codes = sorted({finding.code for finding in findings})
    driver = {"name": "tiercel", "version": version, "rules": [{"id": code} for code in codes]}
    results = [_result(finding) for finding in findings]
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
        ],
    }


def _result(finding: Finding) -> dict[str, Any]:
    where = finding.where
    hint = f" ({finding.hint})" if finding.hint else ""
    place = {
        "artifactLocation": {"uri": quote(where.file)},
        "region": {"startLine": where.line, "startColumn": where.column},
    }
    return {
        "ruleId": finding.code,
        "level": finding.severity,
        "message": {"text": _text(finding.what + hint)},
        "locations": [{"physicalLocation": place}],
    }


def _text(text: str) -> str:
    """Escape text for a message. Without the escape, ``[a](b)`` is a link."""
    return _LINK.sub(r"\\[", printable(text))
