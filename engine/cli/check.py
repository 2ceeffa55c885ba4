"""tiercel check."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from engine.cases import read_cases
from engine.cli.playbooks import DEFAULT, load, values_option
from engine.language.folder import read_files
from engine.render.findings import finding_json, finding_lines, summary
from engine.render.text import echo

if TYPE_CHECKING:
    from pathlib import Path


@click.command("check")
@click.argument("playbooks", nargs=-1)
@values_option
@click.option("--strict", is_flag=True, help="Exit 3 where there are warnings.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def command(*, playbooks: tuple[str, ...], values: Path | None, strict: bool, output: str) -> None:
    """Validate PLAYBOOKS, a folder or files (default: playbooks/).

    All mistakes are told at once, each with file:line:column, and what was probably meant. Warnings tell
    of risks, such as deleting pods without a throttle.
    """
    found = load(playbooks, values)
    _, of_tests = read_cases(read_files(list(playbooks) or [DEFAULT]), found.playbooks)
    findings = sorted([*found.findings, *of_tests], key=lambda finding: finding.where)
    if output == "json":
        echo(json.dumps([finding_json(finding) for finding in findings], indent=1))
    else:
        for line in finding_lines(findings):
            echo(line)
        echo(summary(findings, len(found.playbooks)))
    if any(finding.severity == "error" for finding in findings):
        sys.exit(1)
    if strict and findings:
        sys.exit(3)
