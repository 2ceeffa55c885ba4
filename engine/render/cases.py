"""How the cases of PlaybookTests went, as text, JSON or JUnit, and which steps no case plans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import click

from engine.render.text import clean, count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.cases import Verdict
    from engine.playbook import Playbook


def coverage(playbooks: Sequence[Playbook], verdicts: Sequence[Verdict]) -> tuple[int, list[str]]:
    """Per cent of the steps that some case plans, rounded down, and those that none does."""
    steps = [
        (playbook.name, step.name)
        for playbook in playbooks
        if playbook.mode != "disabled"
        for step in playbook.steps
    ]
    planned = {step for verdict in verdicts for step in verdict.planned}
    missed = [f"{playbook}/{step}" for playbook, step in steps if (playbook, step) not in planned]
    return (100 * (len(steps) - len(missed)) // len(steps) if steps else 100), missed


def verdict_lines(verdicts: Sequence[Verdict], share: int, missed: Sequence[str]) -> Iterator[str]:
    """A line a case, what differs below it, and what no case plans."""
    for verdict in verdicts:
        state = (
            click.style("FAIL", fg="red") if verdict.differences else click.style("ok", fg="green")
        )
        yield f"{state:<4} {verdict.case.test}: {clean(verdict.case.name)}"
        if verdict.differences:
            yield f"     {verdict.case.where}"
            yield from (f"     {clean(difference)}" for difference in verdict.differences)
    for step in missed:
        yield click.style(f"never planned: {step}", dim=True)
    failed = sum(bool(verdict.differences) for verdict in verdicts)
    passed = len(verdicts) - failed
    yield f"{count(passed, 'case')} passed, {failed} failed; {share} % of the steps are planned by some case."


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """One case."""
    return {
        "test": verdict.case.test,
        "case": verdict.case.name,
        "file": verdict.case.where.file,
        "line": verdict.case.where.line,
        "passed": not verdict.differences,
        "differences": list(verdict.differences),
    }


def junit(verdicts: Sequence[Verdict]) -> str:
    """JUnit's XML, a suite a PlaybookTest."""
    root = ET.Element("testsuites")
    suites: dict[str, ET.Element] = {}
    for verdict in verdicts:
        name = verdict.case.test
        suite = suites.get(name)
        if suite is None:
            suite = suites[name] = ET.SubElement(root, "testsuite", name=name)
        place = verdict.case.where
        case = ET.SubElement(suite, "testcase", classname=name, name=clean(verdict.case.name))
        case.attrib |= {"file": place.file, "line": str(place.line)}
        if verdict.differences:
            text = "\n".join(clean(difference) for difference in verdict.differences)
            ET.SubElement(case, "failure", message=clean(verdict.differences[0])).text = text
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)
