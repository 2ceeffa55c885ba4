"""tiercel backup."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click


@click.command("backup")
@click.argument("copy", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--journal",
    metavar="FILE",
    default="tiercel.db",
    envvar="TIERCEL_JOURNAL",
    show_default=True,
    show_envvar=True,
    help="The journal of the engine.",
)
def command(*, copy: Path, journal: str) -> None:
    """Copy the journal to FILE (`-`: stdout) while the engine runs.

    The copy is consistent and checked. It contains each run that was acknowledged before the command. FILE must
    not exist. With `-`, the copy needs free space beside the journal for the time of the command.

    \b
    Examples:
      tiercel backup journal.copy
      kubectl -n tiercel exec tiercel-0 -- tiercel backup - > journal.copy

    Next: tiercel serve --dry-run --journal journal.copy
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    import tempfile  # noqa: PLC0415 - --help must be fast

    from engine.cli.exit_codes import FINDINGS, USAGE, fail  # noqa: PLC0415 - the same
    from engine.journal.sqlite.backup import copy_journal  # noqa: PLC0415 - the same
    from engine.model.errors import JournalError  # noqa: PLC0415 - the same
    from engine.runtime.settings import POSTGRESQL  # noqa: PLC0415 - the same

    if journal.startswith(POSTGRESQL):
        hint = "Back up the database, for example with pg_basebackup or pg_dump."
        fail(
            "This command copies a journal in a file, and this journal is a database.", USAGE, hint
        )
    file = Path(journal)
    if not file.is_file():
        hint = "Pass the file of the engine: tiercel backup FILE --journal JOURNAL"
        fail(f"{journal}: there is no such file", FINDINGS, hint)
    try:
        if str(copy) != "-":
            copy_journal(file, copy)
            return
        with tempfile.TemporaryDirectory(prefix="copy-", dir=file.parent) as folder:
            copy_journal(file, Path(folder) / "journal")
            with (Path(folder) / "journal").open("rb") as content:
                shutil.copyfileobj(content, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    except (JournalError, OSError) as error:
        fail(str(error), FINDINGS)
