"""Findings as text or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from engine.model.safe_text import printable
from engine.render.text import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from engine.model.errors import Finding


def finding_json(finding: Finding) -> dict[str, Any]:
    """Return one finding as ``check -o json`` prints it."""
    return {
        "file": finding.where.file,
        "line": finding.where.line,
        "column": finding.where.column,
        "severity": finding.severity,
        "code": finding.code,
        "message": finding.what,
        "hint": finding.hint,
    }


def finding_lines(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield one line for each finding: place, severity, message, hint, code."""
    for finding in findings:
        colour = "red" if finding.severity == "error" else "yellow"
        severity = click.style(finding.severity, fg=colour)
        hint = click.style(f" ({printable(finding.hint)})", dim=True) if finding.hint else ""
        yield f"{printable(str(finding.where))}: {severity}: {printable(finding.what)}{hint} [{finding.code}]"


def summary(findings: Sequence[Finding], playbooks: int) -> str:
    """Return the last line of ``check``: the number of playbooks, errors and warnings."""
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = len(findings) - errors
    return (
        f"{count(playbooks, 'playbook')}, {count(errors, 'error')}, {count(warnings, 'warning')}."
    )
