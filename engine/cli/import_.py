"""tiercel import."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from engine.cli.exit_codes import FINDINGS, USAGE, WARNINGS, fail
from engine.model.safe_text import printable
from engine.render.findings import finding_json, finding_lines
from engine.render.text import count, print_document, print_line
from engine.talon.convert import MAX_SIZE, Conversion, convert


@click.group("import")
def command() -> None:
    """Convert the rules of another engine into playbooks.

    \b
    Example:
      tiercel import talon rules.yaml --out playbooks/

    Next: tiercel import talon --help
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks


@command.command("talon")
@click.argument("rules", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write one file per playbook into this folder.",
)
@click.option("--force", is_flag=True, help="With --out: overwrite existing files.")
@click.option("--strict", is_flag=True, help="Exit with code 3 if there are warnings.")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text",
    help="json: print the playbooks and the findings as one object.",
)  # fmt: skip
def talon(
    *, rules: tuple[Path, ...], out: Path | None, force: bool, strict: bool, output: str
) -> None:
    """Convert Falco Talon's rules files into playbooks.

    RULES are the files in the order in which Talon loads them: rules.yaml first, then the overrides. The
    playbooks go to stdout, or into the folder of --out. Parts that cannot be converted (error) or that work
    differently in Tiercel (warning) are reported on stderr.

    A playbook never does more than its rule without a warning. If a part of the match is lost, the playbook
    has `mode: dryRun`. The exit code is 0 if everything was converted, and 1 if not.

    \b
    Examples:
      tiercel import talon rules.yaml rules_override.yaml --out playbooks/
      tiercel import talon rules.yaml -o json

    Next: tiercel check playbooks/
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    found = convert([(str(path), _content(path)) for path in rules])
    if found.too_large:
        what = f"The playbooks would be larger than {MAX_SIZE >> 20} MiB."
        fail(what, FINDINGS, "Pass fewer rules: tiercel import talon FILE")
    written = _write_files(found, out, force=force) if out and found.playbooks else []
    if output == "json":
        print_document(_json(found))
    else:
        _print(found, written, out)
    severities = {finding.severity for finding in found.findings}
    if "error" in severities:
        sys.exit(FINDINGS)
    if strict and severities:
        sys.exit(WARNINGS)


def _content(path: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        fail(f"{path}: {error.strerror}", USAGE, "tiercel import talon RULES...")


def _write_files(found: Conversion, out: Path, *, force: bool) -> list[Path]:
    """Write one file per playbook. Exits with code 2, without changes, if a file exists already."""
    files = {out / f"{name}.yaml": text for name, text in found.playbooks.items()}
    existing = [path for path in files if path.exists() or path.is_symlink()]
    if existing and not force:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        fail(f"{existing[0]}{more} already exists", USAGE, "To overwrite, add --force.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", USAGE)
    return list(files)


def _json(found: Conversion) -> str:
    return json.dumps(
        {
            "playbooks": [{"name": n, "yaml": text} for n, text in found.playbooks.items()],
            "findings": [finding_json(finding) for finding in found.findings],
        },
        indent=1,
    )


def _print(found: Conversion, written: list[Path], out: Path | None) -> None:
    for line in finding_lines(found.findings):
        print_line(line, err=True)
    if out is None and found.playbooks:
        print_document("---\n".join(found.playbooks.values()).rstrip("\n"))
    for path in written:
        print_document(printable(str(path)))
    errors = sum(finding.severity == "error" for finding in found.findings)
    warnings = len(found.findings) - errors
    playbooks = count(len(found.playbooks), "playbook")
    print_line(f"{playbooks}, {count(errors, 'error')}, {count(warnings, 'warning')}.", err=True)
    if out is not None and found.playbooks:
        print_line(f"Next: tiercel check {out}", err=True)
