"""The results of PlaybookTests as text, JSON or JUnit, and the gaps in their coverage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import click
import msgspec

from engine.model.safe_text import printable
from engine.render.text import count, short

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.preview.coverage import Coverage
    from engine.preview.test_cases import CaseResult, StepReport

MAX_STEPS = 100
"""Steps of a failed case in the text output."""


def case_lines(verdicts: Sequence[CaseResult]) -> Iterator[str]:
    """Yield one line for each case. Below a failed case, yield the differences and its steps."""
    for verdict in verdicts:
        state = (
            click.style("FAIL", fg="red") if verdict.differences else click.style("ok", fg="green")
        )
        yield f"{state:<4} {printable(verdict.case.test)}: {printable(verdict.case.name)}"
        if verdict.differences:
            yield f"     {printable(str(verdict.case.where))}"
            yield from (f"     {printable(difference)}" for difference in verdict.differences)
            yield from (f"     {printable(line)}" for line in _step_lines(verdict.seen))


def _step_lines(seen: Sequence[StepReport]) -> Iterator[str]:
    """Yield a table of the steps: actual state, expected state and message."""
    if not seen:
        yield "no playbook matched the events (tiercel explain shows why)"
        return
    rows = [("step", "actual", "expected", "message")]
    rows += [
        (f"{one.playbook}/{one.step}".rstrip("/"), one.state, one.expected, short(one.message))
        for one in seen[:MAX_STEPS]
    ]
    widths = [max(len(row[n]) for row in rows) for n in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "  ".join([*cells, row[3]]).rstrip()
    if len(seen) > MAX_STEPS:
        yield f"and {len(seen) - MAX_STEPS:,} more steps"


def summary_lines(verdicts: Sequence[CaseResult], covered: Coverage) -> Iterator[str]:
    """Yield one line for each gap in the coverage, and a summary."""
    for missed in covered.missed:
        yield click.style(printable(f"{missed.where}: {missed.what}"), dim=True)
    failed = sum(bool(verdict.differences) for verdict in verdicts)
    cases = f"{count(len(verdicts) - failed, 'case')} passed, {failed} failed"
    of_all = f"{covered.seen:,} of {covered.all:,} steps and outcomes of conditions"
    yield f"{cases}; {covered.share} % covered: {of_all}"


def case_json(verdict: CaseResult) -> dict[str, Any]:
    """Return one case."""
    return {
        "test": verdict.case.test,
        "case": verdict.case.name,
        "file": verdict.case.where.file,
        "line": verdict.case.where.line,
        "passed": not verdict.differences,
        "differences": list(verdict.differences),
        "steps": [msgspec.structs.asdict(one) for one in verdict.seen],
    }


def cases_junit(verdicts: Sequence[CaseResult]) -> str:
    """Return JUnit XML with one suite for each PlaybookTest."""
    root = ET.Element("testsuites")
    suites: dict[str, ET.Element] = {}
    for verdict in verdicts:
        name = printable(verdict.case.test)
        suite = suites.get(name)
        if suite is None:
            suite = suites[name] = ET.SubElement(root, "testsuite", name=name)
        place = verdict.case.where
        case = ET.SubElement(suite, "testcase", classname=name, name=printable(verdict.case.name))
        case.attrib |= {"file": printable(place.file), "line": str(place.line)}
        if verdict.differences:
            lines = [*verdict.differences, *_step_lines(verdict.seen)]
            text = "\n".join(printable(line) for line in lines)
            ET.SubElement(case, "failure", message=printable(verdict.differences[0])).text = text
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)
