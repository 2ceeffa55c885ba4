"""Findings as JUnit's XML: a test case a file, which fails where the file has findings that count."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from engine.model.safe_text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.model.errors import Finding


def findings_junit(files: Iterable[str], findings: Sequence[Finding], *, strict: bool) -> str:
    """The XML. files: all that were read. findings: sorted by file. strict: whether warnings count."""
    told = {file: list(of_file) for file, of_file in groupby(findings, lambda f: f.where.file)}
    root = ET.Element("testsuites")
    suite = ET.SubElement(root, "testsuite", name="tiercel check")
    for file in sorted({*files, *told}):
        case = ET.SubElement(suite, "testcase", classname="tiercel check", name=printable(file))
        lines = [printable(str(finding)) for finding in told.get(file, ())]
        counting = [f for f in told.get(file, ()) if strict or f.severity == "error"]
        if counting:
            failure = ET.SubElement(case, "failure", message=printable(counting[0].what))
            failure.text = "\n".join(lines)
        elif lines:
            ET.SubElement(case, "system-out").text = "\n".join(lines)
    cases = suite.findall("testcase")
    failed = sum(case.find("failure") is not None for case in cases)
    suite.attrib |= {"tests": str(len(cases)), "failures": str(failed)}
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)
