"""Open the journal that the settings name: a SQLite file, or a PostgreSQL database that replicas share."""

from __future__ import annotations

import functools
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

import structlog

from engine.actions.registry import load_actions
from engine.journal.spool.file import SpoolFile
from engine.journal.spool.queue import SpooledQueue
from engine.journal.sqlite.journal import SqliteJournal
from engine.journal.sqlite.storage import max_journal_bytes
from engine.language.compile import playbook_from_snapshot
from engine.model.clock import SteadyClock
from engine.model.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.journal.postgres.journal import PostgresJournal
    from engine.journal.protocol import Journal
    from engine.runtime.settings import Settings

log = structlog.get_logger()
EXTRA = "pip install 'tiercel[postgres]'"


def open_journal(
    settings: Settings, process: Literal["engine", "worker"]
) -> SqliteJournal | PostgresJournal:
    """Open the journal for one of the two processes of the engine. Raises JournalError."""
    if settings.journal_url:
        return _open_postgres(settings, process)
    return SqliteJournal(
        settings.journal,
        functools.partial(playbook_from_snapshot, actions=load_actions()),
        worker_process=process == "worker",
        dry_run=settings.dry_run,
    )


def open_spool(settings: Settings, journal: Journal) -> SpooledQueue | None:
    """Open the spool of a shared journal, if the settings name one. Raises JournalError."""
    shared = as_shared(journal)
    if settings.spool is None or shared is None:
        return None
    compile_ = functools.partial(playbook_from_snapshot, actions=load_actions())
    id_ = shared.id() if shared.is_open else None
    return SpooledQueue(shared, SpoolFile(settings.spool, id_, compile_))


def clock_of(journal: Journal, process: Literal["engine", "worker"]) -> Callable[[], float]:
    """Return the clock of a journal. Replicas use that of the database, because their own can differ."""
    shared = as_shared(journal)
    if shared:
        return shared.now
    return time.time if process == "engine" else SteadyClock()


def as_shared(journal: Journal) -> PostgresJournal | None:
    """Return the journal if replicas share it, otherwise None."""
    return journal if journal.shared else None  # type: ignore[return-value]


def log_journal(settings: Settings, journal: Journal) -> None:
    """Log which journal is open, and what an operator should know about it."""
    shared = as_shared(journal)
    if shared:
        if shared.is_open:
            log.info("journal_opened", server=shared.name, replica=settings.replica)
        if shared.warning:
            log.warning("journal_not_replicated", reason=shared.warning)
        return
    max_bytes = max_journal_bytes(settings.journal.resolve().parent)
    log.info("journal_opened", file=str(settings.journal), max_size=f"{max_bytes >> 20:,} MiB")


def _open_postgres(settings: Settings, process: str) -> PostgresJournal:
    try:
        from engine.journal.postgres.connection import (  # noqa: PLC0415 - only replicas need the client
            parse_server,
        )
        from engine.journal.postgres.journal import PostgresJournal  # noqa: PLC0415 - the same
        from engine.journal.postgres.liveness import Process  # noqa: PLC0415 - the same
    except ImportError as error:
        raise JournalError(
            f"--journal postgresql://… needs the extra `postgres`: {EXTRA}"
        ) from error
    if settings.dry_run:
        raise JournalError(
            "--dry-run cannot use the journal of replicas, because it would end their runs: give"
            " --journal FILE"
        )
    server = parse_server(settings.journal_url or "", settings.journal_password_file)
    return PostgresJournal(
        server,
        Process(settings.replica, process, version("tiercel")),
        functools.partial(playbook_from_snapshot, actions=load_actions()),
        may_wait=process == "engine" and settings.spool is not None and settings.spool.exists(),
    )
