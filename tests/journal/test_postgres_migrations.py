"""Replicas that start at the same time on an empty database."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

from engine.journal.postgres import migrations
from engine.journal.postgres.migrations import find_version, migrate
from engine.journal.postgres.schema import SCHEMA_LOCK, VERSION
from tests.support.engine import PATIENCE, wait_until
from tests.support.postgres import shared_server

DATABASE = "empty"
WAITING = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def test_one_of_two_replicas_creates_the_tables_and_the_other_uses_them(monkeypatch):
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "60s")  # on a slow machine, too
    # so few statements that the server does not make the other session forget what it knows
    monkeypatch.setattr(migrations, "MIGRATIONS", ("CREATE TABLE runs (id text)",))
    server = shared_server()
    with server.connect() as admin:
        admin.execute(f"CREATE DATABASE {DATABASE}")
    try:
        with (
            contextlib.closing(server.connect(DATABASE)) as first,
            contextlib.closing(server.connect(DATABASE)) as second,
            ThreadPoolExecutor(1) as pool,
            server.connect() as admin,
        ):
            with first.transaction():
                first.execute("SELECT pg_advisory_xact_lock(%s)", (SCHEMA_LOCK,))
                other = pool.submit(migrate, second)  # it has seen that there are no tables
                wait_until(lambda: admin.execute(WAITING).fetchone() or other.done())
                assert migrate(first)
            assert other.result(PATIENCE) is False
            assert find_version(second).version == VERSION
    finally:
        with server.connect() as admin:
            admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
