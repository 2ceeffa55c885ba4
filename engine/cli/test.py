"""tiercel test."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from engine.cli.exit_codes import FINDINGS, did_you_mean, fail
from engine.cli.playbook_arguments import (
    load,
    read_playbook_files,
    require_valid,
    values_option,
)
from engine.model.own_identity import OwnIdentity
from engine.preview.coverage import coverage
from engine.preview.test_cases import read_cases, run_case
from engine.render.findings import finding_lines
from engine.render.progress import with_progress
from engine.render.test_results import case_json, case_lines, cases_junit, summary_lines
from engine.render.text import count, print_document, print_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.preview.test_cases import Case


@click.command("test")
@click.argument("playbooks", nargs=-1)
@values_option
@click.option(
    "-k", "word", default="", metavar="WORD", help="Run only cases with this word in their name."
)
@click.option(
    "--coverage-threshold", type=click.IntRange(0, 100), default=0, metavar="PCT",
    help="Fail if the cases cover less of the steps and conditions.",
)  # fmt: skip
@click.option("-o", "--output", type=click.Choice(["text", "json", "junit"]), default="text")
def command(
    *,
    playbooks: tuple[str, ...],
    values: Path | None,
    word: str,
    coverage_threshold: int,
    output: str,
) -> None:
    """Run the PlaybookTests of PLAYBOOKS: a folder or files (default: playbooks/).

    A case passes if the playbooks plan exactly the steps that it expects. Cases that expect no steps are
    as important as cases that expect calls. The exit code is 1 if a case fails.

    Coverage counts the steps that a case plans, and for each condition whether one case makes it true and
    another one false or unknown. Missing parts are reported with their location.

    \b
    Examples:
      tiercel test playbooks/
      tiercel test playbooks/ -k isolate --coverage-threshold 90

    Next: tiercel replay playbooks/ EVENTS
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    files = read_playbook_files(playbooks, values)
    found = require_valid(load(files, values))
    cases, findings = read_cases(files, found)
    if findings:
        for line in finding_lines(findings):
            print_line(line, err=True)
        fail(f"{count(len(findings), 'mistake')} in the tests; no case was run.", FINDINGS)
    chosen = [case for case in cases if word in f"{case.test}/{case.name}"]
    if not chosen:
        _fail_without_cases(word, cases)
    own = OwnIdentity.from_environment(os.environ)
    verdicts = [run_case(case, own) for case in with_progress(chosen, "Testing")]
    covered = coverage(found.playbooks, verdicts, files)
    if output == "json":
        print_document(json.dumps([case_json(verdict) for verdict in verdicts], indent=1))
    elif output == "junit":
        print_document(cases_junit(verdicts))
    else:
        for line in case_lines(verdicts):
            print_line(line)
    for line in summary_lines(verdicts, covered):
        print_line(line, err=output != "text")
    if any(verdict.differences for verdict in verdicts) or covered.share < coverage_threshold:
        sys.exit(FINDINGS)


def _fail_without_cases(word: str, cases: Sequence[Case]) -> NoReturn:
    """Exit because there are no cases, or because no case name contains the word of -k."""
    if not cases:
        fail("No case was run: write a PlaybookTest next to the playbook.", FINDINGS)
    names = [name for case in cases for name in (case.test, *case.name.split())]
    what = f"No case was run: none of {count(len(cases), 'case')} has `{word}` in its name."
    fail(what + did_you_mean(word, names), FINDINGS)
