"""tiercel journal: commands for a journal that replicas share."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("journal")
def command() -> None:
    """Move a journal, or prepare one in PostgreSQL that replicas share.

    \b
    Examples:
      tiercel journal copy tiercel.db postgresql://tiercel@db.example/tiercel

    Next: tiercel journal copy --help
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks


@command.command("copy", short_help="Copy a journal from a file to a database or back.")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option(
    "--journal-password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="TIERCEL_JOURNAL_PASSWORD_FILE",
    show_envvar=True,
    help="File with the password of the database.",
)
def copy(*, source: str, target: str, journal_password_file: Path | None) -> None:
    """Copy the journal FROM to the empty journal TO: a file to a database, or a database to a file.

    The copy contains the runs with their history, the changes that can be undone, held runs, pauses, throttles,
    budgets, dead letters and offsets. An engine on TO continues where the one on FROM has stopped.

    Stop all engines of FROM before. The command refuses a journal that is in use, a TO that is not empty, and
    journals of another version. It copies everything or nothing: after an error, run it again.

    Do not start an engine on FROM afterwards. It would repeat the runs that are not over.

    \b
    Examples:
      tiercel journal copy tiercel.db postgresql://tiercel@db.example/tiercel
      tiercel journal copy postgresql://tiercel@db.example/tiercel tiercel.db

    Next: tiercel serve --journal TO
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    from engine.cli.exit_codes import FINDINGS, USAGE, fail  # noqa: PLC0415 - --help must be fast
    from engine.model.errors import JournalError  # noqa: PLC0415 - the same
    from engine.render.progress import row_progress  # noqa: PLC0415 - the same
    from engine.render.text import count, print_line  # noqa: PLC0415 - the same
    from engine.runtime.settings import POSTGRESQL  # noqa: PLC0415 - the same

    to_database = target.startswith(POSTGRESQL)
    if source.startswith(POSTGRESQL) == to_database:
        hint = (
            "Next: pg_dump and pg_restore"
            if to_database
            else "Next: tiercel backup TO --journal FROM"
        )
        fail(
            "One of FROM and TO is a file, and the other one begins with postgresql://.",
            USAGE,
            hint,
        )
    try:
        from engine.journal.postgres.connection import parse_server  # noqa: PLC0415 - needs the extra
        from engine.journal.transfer import to_postgres, to_sqlite  # noqa: PLC0415 - the same
    except ImportError:
        fail("This command needs the extra `postgres`.", USAGE, "pip install 'tiercel[postgres]'")
    try:
        url = target if to_database else source
        server = parse_server(url, journal_password_file, "TO" if to_database else "FROM")
        with row_progress("Copying") as started:
            if to_database:
                copied = to_postgres.copy(Path(source), server, started)
            else:
                copied = to_sqlite.copy(server, Path(target), started)
    except JournalError as error:
        fail(f"Nothing was copied: {error}", FINDINGS)
    runs = copied.rows.get("runs", 0)
    print_line(f"Copied {count(copied.total, 'row')}. Runs and undos among them: {runs:,}.")
    print_line(f"Next: tiercel serve --journal {target}")
    print_line(
        f"Do not start an engine on {source} again: it would repeat the runs that are not over."
    )


@command.command("migrate", short_help="Create the tables of a database, or migrate them.")
@click.option(
    "--journal",
    metavar="URL",
    required=True,
    envvar="TIERCEL_JOURNAL",
    show_envvar=True,
    help="The database: postgresql://OWNER@HOST/DATABASE.",
)
@click.option(
    "--journal-password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="TIERCEL_JOURNAL_PASSWORD_FILE",
    show_envvar=True,
    help="File with the password of the role.",
)
def migrate_command(*, journal: str, journal_password_file: Path | None) -> None:
    """Create the tables, or migrate them to the version that this engine needs.

    An engine does this itself if its role owns the tables. With this command, the role of the engine needs no
    right to change them. Run it before the engines of a new version start. Engines of the previous version
    keep working.

    \b
    Examples:
      tiercel journal migrate --journal postgresql://tiercel_owner@db.example/tiercel \\
        --journal-password-file owner-password

    Next: tiercel serve --journal postgresql://tiercel@db.example/tiercel
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    import contextlib  # noqa: PLC0415 - --help must be fast

    from engine.cli.exit_codes import USAGE, fail  # noqa: PLC0415 - the same
    from engine.model.errors import JournalError, file_error  # noqa: PLC0415 - the same
    from engine.render.text import print_line  # noqa: PLC0415 - the same

    try:
        import psycopg  # noqa: PLC0415 - the same

        from engine.journal.postgres import connection  # noqa: PLC0415 - the same
        from engine.journal.postgres.migrations import (  # noqa: PLC0415 - the same
            find_version,
            migrate,
        )
        from engine.journal.postgres.start_checks import check_server  # noqa: PLC0415 - the same
    except ImportError:
        fail(
            "tiercel journal migrate needs the extra `postgres`: pip install 'tiercel[postgres]'",
            USAGE,
        )
    try:
        server = connection.parse_server(journal, journal_password_file)
        with contextlib.closing(connection.connect(server)) as opened:
            check_server(opened)
            changed = migrate(opened)
            version = find_version(opened).version
    except JournalError as error:
        fail(str(error), USAGE)
    except OSError as error:
        fail(f"cannot migrate the journal: {file_error(error)}", USAGE)
    except psycopg.Error as error:
        fail(f"cannot migrate the journal: {connection.sentence(error)}", USAGE)
    done = "now have" if changed else "already have"
    print_line(f"The tables of {server.name} {done} version {version}.")
