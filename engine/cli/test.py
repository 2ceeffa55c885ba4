"""tiercel test."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from engine.cli.playbook_arguments import fail, files_of, load_files, require_valid, values_option
from engine.language.findings import nearest
from engine.model.own_identity import OwnIdentity
from engine.preview.coverage import coverage
from engine.preview.test_cases import read_cases, run_case
from engine.render.cases import junit, summary_lines, verdict_json, verdict_lines
from engine.render.findings import finding_lines
from engine.render.progress import tracked
from engine.render.text import count, echo, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.preview.test_cases import Case


@click.command("test")
@click.argument("playbooks", nargs=-1)
@values_option
@click.option(
    "-k", "word", default="", metavar="WORD", help="Only cases with this word in their name."
)
@click.option(
    "--coverage-threshold", type=click.IntRange(0, 100), default=0, metavar="PCT",
    help="Fail where less of the steps and conditions is covered.",
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
    """Run the PlaybookTests of PLAYBOOKS, a folder or files (default: playbooks/).

    A case holds where exactly the steps are planned that it expects; one that expects nothing is as
    important as one that expects calls. Exit 1 where a case does not hold.

    Coverage counts the steps that some case plans, and of each condition whether some case makes it
    true and some case false (or unknown); what is missing is told at its place.
    """
    files = files_of(playbooks, values)
    found = require_valid(load_files(files, values))
    cases, findings = read_cases(files, found)
    if findings:
        for line in finding_lines(findings):
            say(line, err=True)
        fail(f"{count(len(findings), 'mistake')} in the tests: none was run.", 1)
    chosen = [case for case in cases if word in f"{case.test}/{case.name}"]
    if not chosen:
        _fail_without_cases(word, cases)
    own = OwnIdentity.from_environment(os.environ)
    verdicts = [run_case(case, own) for case in tracked(chosen, "Testing")]
    covered = coverage(found.playbooks, verdicts, files)
    if output == "json":
        echo(json.dumps([verdict_json(verdict) for verdict in verdicts], indent=1))
    elif output == "junit":
        echo(junit(verdicts))
    else:
        for line in verdict_lines(verdicts):
            say(line)
    for line in summary_lines(verdicts, covered):
        say(line, err=output != "text")
    if any(verdict.differences for verdict in verdicts) or covered.share < coverage_threshold:
        sys.exit(1)


def _fail_without_cases(word: str, cases: Sequence[Case]) -> NoReturn:
    """Exit, as no case was run: there is none, or none has the word of -k."""
    if not cases:
        fail("No case was run: write a PlaybookTest beside the playbook.", 1)
    names = [name for case in cases for name in (case.test, *case.name.split())]
    near = nearest(word, names)
    hint = f" Did you mean `{near}`?" if near else ""
    fail(f"No case was run: none of {count(len(cases), 'case')} has `{word}` in its name.{hint}", 1)
