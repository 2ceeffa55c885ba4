"""tiercel replay."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, TYPE_CHECKING

import click

from engine.actions.registry import load_actions
from engine.cli.exit_codes import FINDINGS, fail
from engine.cli.input_files import open_input
from engine.cli.playbook_arguments import DEFAULT_FOLDER, load_valid, values_option
from engine.language.folder import VALUES
from engine.language.loader import Loader
from engine.model.own_identity import OwnIdentity
from engine.preview.comparison import Comparison
from engine.preview.event_log import EventLog, is_compressed_as_named, open_event_file
from engine.preview.git_repository import RevisionError
from engine.preview.git_revision import read_revision
from engine.preview.replay import PlaybookReplay, Tally
from engine.render.findings import finding_lines
from engine.render.progress import byte_progress
from engine.render.replay_view import ReplayReport
from engine.render.text import count, print_document, print_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from engine.language.loader import PlaybookSet
    from engine.preview.git_revision import Revision

_MAX_FINDINGS = 20
"""Errors of the compared revision that are printed."""


@click.command("replay")
@click.argument("arguments", nargs=-1, required=True, metavar="[PLAYBOOKS]... EVENTS")
@values_option
@click.option(
    "--against", metavar="GITREF",
    help="Compare with the playbooks of this Git revision, event by event.",
)  # fmt: skip
@click.option(
    "-o", "--output", type=click.Choice(["text", "json", "markdown", "html"]), default="text"
)
def command(
    *, arguments: tuple[str, ...], values: Path | None, against: str | None, output: str
) -> None:
    """Show what PLAYBOOKS (default: playbooks/) would have done for recorded EVENTS.

    EVENTS is a file with one event per line (a Falco log can contain other lines) or a JSON array, also
    as .gz or .zst; - is stdin. Throttles and budgets start empty. The time of each event is the clock.

    With --against, the command also replays the events with the playbooks of another Git revision, and
    compares them with the files that are in the folder now. The exit code is 1 if a line cannot be read or
    if the revisions differ.

    \b
    Examples:
      tiercel replay playbooks/ events.ndjson.gz
      tiercel replay playbooks/ events.ndjson --against main
      tiercel replay playbooks/ events.ndjson -o html > replay.html

    Next: tiercel explain playbooks/ EVENTS
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    *paths, events = arguments
    found = load_valid(paths, values)
    own = OwnIdentity.from_environment(os.environ)
    new, old, comparison = PlaybookReplay(found, own), None, None
    if against is not None:
        revision, before = _load_revision(against, paths or [DEFAULT_FOLDER], values)
        comparison = Comparison(revision.name, revision.commit)
        # the same files give the same runs, so they are planned only once
        old = None if before.digest == found.digest else PlaybookReplay(before, own)
    with (
        _open(events) as (file, size),
        open_event_file(file, size) as source,
        byte_progress(size, "Replaying") as on_progress,
    ):
        event_log = EventLog(source, on_progress)
        tally = _replay(event_log, new, old, comparison)
    _print_unreadable(events, event_log)
    _print(ReplayReport(events, event_log, tally, comparison), output)
    if event_log.unreadable or (comparison and comparison.differs):
        sys.exit(FINDINGS)


def _replay(
    event_log: EventLog,
    new: PlaybookReplay,
    old: PlaybookReplay | None,
    comparison: Comparison | None,
) -> Tally:
    tally = Tally(new.playbooks)
    for line, event in event_log:
        runs = new.run(event)
        tally.add(line, event, runs)
        if comparison is not None:
            before = old.run(event) if old else runs
            if runs or before:
                comparison.add(line, event, before, runs)
    return tally


def _load_revision(
    ref: str, paths: Sequence[str], values: Path | None
) -> tuple[Revision, PlaybookSet]:
    """Load the playbooks of a Git revision. The file of --values also comes from it, if it is there."""
    try:
        revision = read_revision(ref, paths, values)
    except RevisionError as error:
        fail(str(error), FINDINGS)
    for note in revision.notes:
        print_line(note, err=True)
    if values is None:
        found = Loader(load_actions()).load(revision.files)
    else:
        from_revision = revision.values is not None
        content = revision.values if revision.values is not None else values.read_bytes()
        files = replace(revision.files, files={**revision.files.files, VALUES: content})
        shown = f"{revision.name}:{values}" if from_revision else str(values)
        found = Loader(load_actions()).load(files, (shown, content))
    if found.errors:
        for line in finding_lines(found.errors[:_MAX_FINDINGS]):
            print_line(line, err=True)
        errors = count(len(found.errors), "error")
        fail(f"{errors} in the playbooks of {revision.name}: nothing was compared.", FINDINGS)
    return revision, found


@contextmanager
def _open(events: str) -> Iterator[tuple[IO[bytes], int | None]]:
    """Open EVENTS. Yield the file and its size in bytes; the size is None for stdin and pipes."""
    with open_input(events, "tiercel replay [PLAYBOOKS] EVENTS") as file:
        if not is_compressed_as_named(events, file):
            hint = "Fetch the file again. If Git LFS stores it: git lfs pull"
            fail(f"{events}: is not compressed, although its name says so", FINDINGS, hint)
        size = None if events == "-" else os.fstat(file.fileno()).st_size or None
        yield file, size


def _print_unreadable(events: str, event_log: EventLog) -> None:
    """Report the lines that could not be read."""
    for line, reason in event_log.errors:
        print_line(f"{events}:{line}: {reason}", err=True)
    more = event_log.unreadable - len(event_log.errors)
    if more:
        print_line(f"{events}: and {more:,} more lines that cannot be read", err=True)


def _print(replayed: ReplayReport, output: str) -> None:
    """Print the result. The code of each output format is imported only when it is used."""
    if output == "json":
        from engine.render.replay_json import replay_json  # noqa: PLC0415 - see the docstring

        print_document(json.dumps(replay_json(replayed), indent=1))
    elif output == "markdown":
        from engine.render.replay_markdown import replay_markdown  # noqa: PLC0415 - see the docstring

        print_document(replay_markdown(replayed))
    elif output == "html":
        from engine.render.replay_html import replay_html  # noqa: PLC0415 - see the docstring

        print_document(replay_html(replayed))
    else:
        from engine.render.replay_text import replay_lines  # noqa: PLC0415 - see the docstring

        for line in replay_lines(replayed):
            print_line(line)
