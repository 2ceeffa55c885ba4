"""tiercel check."""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import click

from engine.cli.playbook_arguments import fail, files_of, load_files, values_option
from engine.falco.compatibility import CompatibilityCheck
from engine.falco.rule_coverage import rule_coverage
from engine.falco.rules_file import FalcoRules, read_rules, shipped_rules
from engine.language.folder import FolderError
from engine.language.lint import nothing_found, run_out
from engine.preview.test_cases import read_cases
from engine.render.answers import answers_json, answers_lines
from engine.render.findings import finding_json, finding_lines, summary
from engine.render.github import github_lines
from engine.render.junit import junit
from engine.render.sarif import sarif
from engine.render.text import echo, say

if TYPE_CHECKING:
    from pathlib import Path


@click.command("check")
@click.argument("playbooks", nargs=-1)
@values_option
@click.option(
    "--rules",
    multiple=True,
    metavar="DIR",
    type=click.Path(exists=True),
    help="Falco's rules, a folder or a file (again for more, in Falco's order); a falco.yaml among them counts.",
)
@click.option(
    "--coverage",
    is_flag=True,
    help="Also print which playbooks answer which Falco rules, with the strongest effect (text or json).",
)
@click.option("--strict", is_flag=True, help="Exit 3 where there are warnings.")
@click.option(
    "-o", "--output", default="text",
    type=click.Choice(["text", "json", "github", "sarif", "junit"]),
    help="github annotates a pull request, sarif and junit are for those who read them.",
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
    """Validate PLAYBOOKS, a folder, files or - for stdin (default: playbooks/).

    All mistakes are told at once, each with file:line:column, and what was probably meant. Warnings tell
    of risks, such as deleting pods without a throttle, and of what Falco's rules never send: a rule that is
    not there or disabled, a field that it does not print. Without --rules the rules that Falco and its
    plugins ship are known. --coverage also lists the rules of --rules that no playbook answers.
    """
    if coverage and output not in ("text", "json"):
        fail("--coverage needs -o text or -o json", 2)
    falco = _falco(rules)
    files = files_of(playbooks, values)
    found = load_files(files, values, CompatibilityCheck(falco).inspect)
    _, of_tests = read_cases(files, found)
    past = run_out(found.silences, time.time())
    findings = sorted(
        [*found.findings, *of_tests, *past, *falco.findings, *nothing_found(found, files)],
        key=lambda finding: finding.where,
    )
    answered = rule_coverage(falco, found.playbooks) if coverage else None
    if output == "text":
        matrix = answers_lines(answered) if answered else ()
        for line in (*finding_lines(findings), summary(findings, len(found.playbooks)), *matrix):
            say(line)
    elif output == "json":
        told = [finding_json(finding) for finding in findings]
        data = {"findings": told, **answers_json(answered)} if answered else told
        echo(json.dumps(data, indent=1))
    elif output == "sarif":
        echo(json.dumps(sarif(findings, version("tiercel")), indent=1))
    elif output == "junit":
        echo(junit(map(files.shown, found.sources), findings, strict=strict))
    else:
        for line in github_lines(findings):
            echo(line)
    if any(finding.severity == "error" for finding in findings):
        sys.exit(1)
    if strict and findings:
        sys.exit(3)


def _falco(rules: tuple[str, ...]) -> FalcoRules:
    try:
        return read_rules(rules) if rules else shipped_rules()
    except FolderError as error:
        fail(f"--rules: {error}", 2)
