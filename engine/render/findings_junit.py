"""Findings as JUnit XML: one test case for each file."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from engine.model.safe_text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.model.errors import Finding


def findings_junit(files: Iterable[str], findings: Sequence[Finding], *, strict: bool) -> str:
    """Return JUnit XML. A test case fails if its file has errors.

    files: all files that were read. findings: sorted by file. strict: whether warnings also fail a test case.
    """
    by_file = {file: list(of_file) for file, of_file in groupby(findings, lambda f: f.where.file)}
    root = ET.Element("testsuites")
    suite = ET.SubElement(root, "testsuite", name="tiercel check")
    for file in sorted({*files, *by_file}):
        case = ET.SubElement(suite, "testcase", classname="tiercel check", name=printable(file))
        lines = [printable(str(finding)) for finding in by_file.get(file, ())]
        failures = [f for f in by_file.get(file, ()) if strict or f.severity == "error"]
        if failures:
            failure = ET.SubElement(case, "failure", message=printable(failures[0].what))
            failure.text = "\n".join(lines)
        elif lines:
            ET.SubElement(case, "system-out").text = "\n".join(lines)
    cases = suite.findall("testcase")
    failed = sum(case.find("failure") is not None for case in cases)
    suite.attrib |= {"tests": str(len(cases)), "failures": str(failed)}
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)
