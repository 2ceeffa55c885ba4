"""tiercel import."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from engine.cli.playbook_arguments import fail
from engine.model.safe_text import printable
from engine.render.findings import finding_json, finding_lines
from engine.render.text import count, echo, say
from engine.talon.convert import LARGEST, Conversion, convert


@click.group("import")
def command() -> None:
    """Turn another engine's rules into playbooks."""


@command.command("talon")
@click.argument("rules", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="A file a playbook.")
@click.option("--force", is_flag=True, help="With --out: write over files that are there.")
@click.option("--strict", is_flag=True, help="Exit 3 where something means something else.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def talon(
    *, rules: tuple[Path, ...], out: Path | None, force: bool, strict: bool, output: str
) -> None:
    """Turn Falco Talon's rules files into playbooks.

    RULES are the files in Talon's own order: rules.yaml first, then what overrides it. The playbooks are
    written to stdout, or into a folder with --out; what could not be carried over (error) or means
    something else (warning) is told on stderr, line by line. A playbook never does more than its rule did:
    where a condition is lost it is written with mode: dryRun. Exit: 0 all carried over, 1 not all.
    """
    found = convert([(str(path), _content(path)) for path in rules])
    if found.too_large:
        fail(f"The playbooks would be larger than {LARGEST >> 20} MiB: import fewer rules.", 1)
    written = _write(found, out, force=force) if out and found.playbooks else []
    if output == "json":
        echo(_json(found))
    else:
        _tell(found, written, out)
    severities = {finding.severity for finding in found.findings}
    if "error" in severities:
        sys.exit(1)
    if strict and severities:
        sys.exit(3)


def _content(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        fail(f"{path}: {error.strerror}", 2)


def _write(found: Conversion, out: Path, *, force: bool) -> list[Path]:
    """Write a file a playbook, all or none; exit 2 where one is there already."""
    files = {out / f"{name}.yaml": text for name, text in found.playbooks.items()}
    there = [path for path in files if path.exists() or path.is_symlink()]
    if there and not force:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        fail(f"{there[0]}{more} is there already; --force writes over it", 2)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", 2)
    return list(files)


def _json(found: Conversion) -> str:
    return json.dumps(
        {
            "playbooks": [{"name": n, "yaml": text} for n, text in found.playbooks.items()],
            "findings": [finding_json(finding) for finding in found.findings],
        },
        indent=1,
    )


def _tell(found: Conversion, written: list[Path], out: Path | None) -> None:
    for line in finding_lines(found.findings):
        say(line, err=True)
    if out is None and found.playbooks:
        echo("---\n".join(found.playbooks.values()).rstrip("\n"))
    for path in written:
        echo(printable(str(path)))
    errors = sum(finding.severity == "error" for finding in found.findings)
    lost, differ = count(errors, "thing"), count(len(found.findings) - errors, "thing")
    told = (
        f"{count(len(found.playbooks), 'playbook')}; {lost} not carried over, {differ} to look at."
    )
    say(told, err=True)
