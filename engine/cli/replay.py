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
from engine.cli.input_files import open_input
from engine.cli.playbook_arguments import DEFAULT, fail, load_valid, values_option
from engine.language.folder import VALUES
from engine.language.loader import Loader
from engine.model.own_identity import OwnIdentity
from engine.preview.comparison import Comparison
from engine.preview.event_log import EventLog, open_event_file
from engine.preview.git_revision import RevisionError, read_revision
from engine.preview.replay import PlaybookReplay, Tally
from engine.render.findings import finding_lines
from engine.render.progress import bytes_done
from engine.render.replay_view import Replayed
from engine.render.text import count, echo, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from engine.language.loader import PlaybookSet
    from engine.preview.git_revision import Revision

_FINDINGS = 20


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
    """Show what PLAYBOOKS (default: playbooks/) would have done on recorded EVENTS.

    EVENTS is a file of alerts, one a line (other lines of a Falco log may stand between) or a JSON array;
    .gz and .zst too; - is stdin. Throttles and budgets start empty, and the clock is the events' own.
    With --against, the same events are put to the playbooks of another Git revision as well; what is
    compared with it is what stands in the folder now. Exit 1 where a line cannot be read, or where the
    two revisions differ.

    \b
      tiercel replay playbooks/ events.ndjson.gz
      tiercel replay playbooks/ events.ndjson --against main
      tiercel replay playbooks/ events.ndjson -o html > replay.html
    """  # noqa: D301 - \b is click's mark for text to be left alone
    *paths, events = arguments
    found = load_valid(paths, values)
    own = OwnIdentity.from_environment(os.environ)
    new, old, comparison = PlaybookReplay(found, own), None, None
    if against is not None:
        revision, was = _before(against, paths or [DEFAULT], values)
        comparison = Comparison(revision.name, revision.commit)
        # the same files mean the same runs, so that they need not be planned twice
        old = None if was.digest == found.digest else PlaybookReplay(was, own)
    with (
        _open(events) as (file, size),
        open_event_file(file, size) as source,
        bytes_done(size, "Replaying") as on_progress,
    ):
        recording = EventLog(source, on_progress)
        tally = _replay(recording, new, old, comparison)
    _tell(events, recording)
    _render(Replayed(events, recording, tally, comparison), output)
    if recording.unreadable or (comparison and comparison.differs):
        sys.exit(1)


def _replay(
    recording: EventLog,
    new: PlaybookReplay,
    old: PlaybookReplay | None,
    comparison: Comparison | None,
) -> Tally:
    tally = Tally(new.playbooks)
    for line, event in recording:
        runs = new.judge(event)
        tally.add(line, event, runs)
        if comparison is not None:
            before = old.judge(event) if old else runs
            if runs or before:
                comparison.add(line, event, before, runs)
    return tally


def _before(ref: str, paths: Sequence[str], values: Path | None) -> tuple[Revision, PlaybookSet]:
    """The revision and its set. A file of --values is the revision's own, where it has one."""
    try:
        revision = read_revision(ref, paths, values)
    except RevisionError as error:
        fail(str(error), 1)
    for note in revision.notes:
        say(note, err=True)
    if values is None:
        found = Loader(load_actions()).load(revision.files)
    else:
        known = revision.values is not None
        content = revision.values if revision.values is not None else values.read_bytes()
        files = replace(revision.files, files={**revision.files.files, VALUES: content})
        shown = f"{revision.name}:{values}" if known else str(values)
        found = Loader(load_actions()).load(files, (shown, content))
    if found.errors:
        for line in finding_lines(found.errors[:_FINDINGS]):
            say(line, err=True)
        errors = count(len(found.errors), "error")
        fail(f"{errors} in the playbooks of {revision.name}: nothing was compared.", 1)
    return revision, found


@contextmanager
def _open(events: str) -> Iterator[tuple[IO[bytes], int | None]]:
    """Open EVENTS. Yield the file and its size in bytes; the size is None for stdin and pipes."""
    with open_input(events, "tiercel replay [PLAYBOOKS] EVENTS") as file:
        size = None if events == "-" else os.fstat(file.fileno()).st_size or None
        yield file, size


def _tell(events: str, recording: EventLog) -> None:
    """Name the lines that could not be read."""
    for line, reason in recording.told:
        say(f"{events}:{line}: {reason}", err=True)
    more = recording.unreadable - len(recording.told)
    if more:
        say(f"{events}: and {more:,} more lines that cannot be read", err=True)


def _render(replayed: Replayed, output: str) -> None:
    """Each form's code is imported only where it is asked for."""
    if output == "json":
        from engine.render.replay_json import replay_json  # noqa: PLC0415 - see above

        echo(json.dumps(replay_json(replayed), indent=1))
    elif output == "markdown":
        from engine.render.replay_markdown import replay_markdown  # noqa: PLC0415 - see above

        echo(replay_markdown(replayed))
    elif output == "html":
        from engine.render.replay_html import replay_html  # noqa: PLC0415 - see above

        echo(replay_html(replayed))
    else:
        from engine.render.replay_text import replay_lines  # noqa: PLC0415 - see above

        for line in replay_lines(replayed):
            say(line)
