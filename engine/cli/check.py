"""tiercel check."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import click

from engine.cli.exit_codes import FINDINGS, USAGE, WARNINGS, fail
from engine.cli.playbook_arguments import load, read_playbook_files, values_option
from engine.falco.compatibility import CompatibilityCheck
from engine.falco.rules_file import FalcoRules, read_rules, shipped_rules
from engine.language.folder import FolderError
from engine.language.lint import expired_silences, no_documents
from engine.preview.test_cases import read_cases
from engine.render.findings import finding_json, finding_lines, summary
from engine.render.rule_coverage import coverage_json, coverage_lines
from engine.render.text import print_document, print_line

if TYPE_CHECKING:
    from pathlib import Path

    from engine.falco.rule_coverage import RuleCoverage
    from engine.language.folder import Files
    from engine.language.loader import PlaybookSet
    from engine.model.errors import Finding


@click.command("check")
@click.argument("playbooks", nargs=-1)
@values_option
@click.option(
    "--rules",
    multiple=True,
    metavar="PATH",
    type=click.Path(exists=True),
    help="Falco's rules: a folder or a file. Repeat the option in the order in which Falco loads them."
    " A falco.yaml among the files is applied.",
)
@click.option(
    "--coverage",
    is_flag=True,
    help="Also list which playbooks answer which Falco rules, with the strongest effect (text or json).",
)
@click.option("--strict", is_flag=True, help="Exit with code 3 if there are warnings.")
@click.option(
    "-o", "--output", default="text",
    type=click.Choice(["text", "json", "github", "sarif", "junit"]),
    help="github: annotations of a pull request. sarif, junit: for tools that read these formats.",
)  # fmt: skip
def command(
    *,
    playbooks: tuple[str, ...],
    values: Path | None,
    rules: tuple[str, ...],
    coverage: bool,
    strict: bool,
    output: str,
) -> None:
    """Validate PLAYBOOKS: a folder, files, or - for stdin (default: playbooks/).

    The command reports all mistakes at once, each with file:line:column and a hint. Warnings report risks,
    such as deleting pods without a throttle, and parts that no event of Falco's rules can match: a rule that
    is missing or disabled, or a field that the rule does not print. Without --rules, the command uses the
    rules that Falco and its plugins ship.

    \b
    Examples:
      tiercel check playbooks/
      tiercel check playbooks/ --rules rules/ --coverage
      tiercel check playbooks/ --strict -o sarif

    Next: tiercel plan playbooks/ EVENTS
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    if coverage and output not in ("text", "json"):
        fail("--coverage requires -o text or -o json", USAGE)
    falco = _falco_rules(rules)
    files = read_playbook_files(playbooks, values)
    found = load(files, values, CompatibilityCheck(falco).inspect)
    findings = _findings(files, found, falco)
    matrix = _matrix(falco, found) if coverage else None
    _print(findings, found, files, matrix, output, strict=strict)
    if any(finding.severity == "error" for finding in findings):
        sys.exit(FINDINGS)
    if strict and findings:
        sys.exit(WARNINGS)


def _matrix(falco: FalcoRules, found: PlaybookSet) -> RuleCoverage:
    from engine.falco.rule_coverage import rule_coverage  # noqa: PLC0415 - only --coverage needs it

    return rule_coverage(falco, found.playbooks)


def _findings(files: Files, found: PlaybookSet, falco: FalcoRules) -> list[Finding]:
    """Return the findings of the playbooks, their tests and Falco's rules, sorted by place."""
    _, test_findings = read_cases(files, found)
    findings = (
        *found.findings,
        *test_findings,
        *expired_silences(found.silences, time.time()),
        *falco.findings,
        *no_documents(found, files),
    )
    return sorted(findings, key=lambda finding: finding.where)


def _print(
    findings: list[Finding],
    found: PlaybookSet,
    files: Files,
    matrix: RuleCoverage | None,
    output: str,
    *,
    strict: bool,
) -> None:
    """Print the findings in a format. matrix: which playbooks answer which rules, for text and JSON."""
    if output == "text":
        lines = coverage_lines(matrix) if matrix else ()
        for line in (*finding_lines(findings), summary(findings, len(found.playbooks)), *lines):
            print_line(line)
    elif output == "json":
        entries = [finding_json(finding) for finding in findings]
        data = {"findings": entries, **coverage_json(matrix)} if matrix else entries
        print_document(json.dumps(data, indent=1))
    elif output == "sarif":
        from importlib.metadata import version  # noqa: PLC0415 - only SARIF needs it

        from engine.render.findings_sarif import findings_sarif  # noqa: PLC0415 - the same

        print_document(json.dumps(findings_sarif(findings, version("tiercel")), indent=1))
    elif output == "junit":
        from engine.render.findings_junit import findings_junit  # noqa: PLC0415 - it imports an XML parser

        print_document(findings_junit(map(files.shown, found.sources), findings, strict=strict))
    else:
        from engine.render.findings_github import findings_github_lines  # noqa: PLC0415 - as above

        for line in findings_github_lines(findings):
            print_document(line)


def _falco_rules(rules: tuple[str, ...]) -> FalcoRules:
    try:
        return read_rules(rules) if rules else shipped_rules()
    except FolderError as error:
        fail(f"--rules: {error}", USAGE)
