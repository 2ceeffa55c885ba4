"""A database that cannot be used: each command says so in one sentence, with the next step."""

from __future__ import annotations

import contextlib
import socket

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from engine.journal.postgres.connect_errors import explained
from psycopg import OperationalError
from tests.support.postgres import database_of, shared_server

ROLE = "refused"


@pytest.fixture(scope="module")
def admin(tmp_path_factory):
    """A superuser's connection to a database with the tables of a journal, and a role without rights."""
    url = database_of(tmp_path_factory.mktemp("refused"))
    with shared_server().connect(url.rpartition("/")[2]) as connection:
        connection.execute(f"CREATE ROLE {ROLE} LOGIN; GRANT USAGE ON SCHEMA public TO {ROLE}")
        yield connection
        connection.execute(f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}")


def outputs(database, role="postgres", port=None):
    """What `journal migrate` and `journal copy` print."""
    url = f"postgresql://{role}@127.0.0.1:{port or shared_server().port}/{database}"
    for command in (("migrate", "--journal", url), ("copy", url, "none.db")):
        result = CliRunner().invoke(cli, ["journal", *command])
        assert result.exit_code in (1, 2)
        assert "Traceback" not in result.output
        assert len(result.output.strip().splitlines()) == 1
        yield result.output


ALL_TABLES = f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}"
ALL_SEQUENCES = f"GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA public TO {ROLE}"


def test_a_role_gets_the_statement_for_the_rights_that_it_lacks(admin):
    database = admin.info.dbname

    def refusal():
        return next(outputs(database, ROLE))

    admin.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    assert f"GRANT CONNECT ON DATABASE {database} to the role" in refusal()
    admin.execute(f"GRANT CONNECT ON DATABASE {database} TO {ROLE}")
    admin.execute(f"REVOKE USAGE ON SCHEMA public FROM {ROLE}")
    for output in outputs(database, ROLE):
        assert f"GRANT USAGE ON SCHEMA public TO {ROLE}" in output
    admin.execute(f"GRANT USAGE ON SCHEMA public TO {ROLE}")
    assert ALL_TABLES in refusal()
    admin.execute(ALL_TABLES)
    admin.execute(f"REVOKE DELETE ON undo_intents FROM {ROLE}")  # one right is missing
    assert ALL_TABLES in refusal()
    admin.execute(ALL_TABLES)
    assert ALL_SEQUENCES in refusal()
    admin.execute(ALL_SEQUENCES)
    assert f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {ROLE}" in refusal()
    admin.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {ROLE}")
    url = f"postgresql://{ROLE}@127.0.0.1:{shared_server().port}/{database}"
    result = CliRunner().invoke(cli, ["journal", "migrate", "--journal", url])
    assert "already have version 1" in result.output


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE events (x int)",
        "CREATE TABLE schema_version (version text)",
        "CREATE TABLE schema_version AS SELECT 'a' AS version, 'b' AS oldest_reader",
        "CREATE TABLE schema_version (version int, oldest_reader int)",
    ],
)
def test_the_tables_of_another_program_are_refused(statement, admin):
    admin.execute("CREATE DATABASE other_program TEMPLATE template0")
    try:
        with contextlib.closing(shared_server().connect("other_program")) as other:
            other.execute(statement)
        migrated, copied = outputs("other_program")
        assert "create a database for the journal alone" in migrated
        assert ("for the journal alone" in copied) or ("has no journal: give the" in copied)
    finally:
        admin.execute("DROP DATABASE other_program WITH (FORCE)")


def test_a_role_that_may_not_create_tables_gets_the_statement_that_lets_it(admin):
    admin.execute("CREATE DATABASE of_nobody TEMPLATE template0")
    try:
        migrated = next(outputs("of_nobody", ROLE))
        assert f"ALTER DATABASE of_nobody OWNER TO {ROLE}, or run `tiercel journal" in migrated
    finally:
        admin.execute("DROP DATABASE of_nobody WITH (FORCE)")


def test_a_server_that_cannot_be_reached_is_named_with_the_next_step(admin):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    refused = [outputs("x", port=port), outputs("nowhere"), outputs("x", "nobody")]
    steps = ["correct its address", "CREATE DATABASE nowhere", "CREATE ROLE nobody LOGIN"]
    for outputs_, step in zip(refused, steps, strict=True):
        for output in outputs_:
            assert step in output
    for output in outputs("x", port="nine"):
        assert "has a port that is not a number" in output
    admin.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT 0")
    assert "raise max_connections" in next(outputs(admin.info.dbname, ROLE))


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ('FATAL:  password authentication failed for user "a"', "--journal-password-file"),
        ('FATAL:  no pg_hba.conf entry for host "192.0.2.1", user "a"', "add an entry"),
        ("SSL error: certificate verify failed", "sslrootcert=FILE"),
        ("server does not support SSL, but SSL was required", "turn on ssl"),
        ("FATAL:  something new", ""),
    ],
)
def test_texts_of_other_servers_get_their_next_step(text, step):
    given = (
        f'connection failed: connection to server at "192.0.2.1", port 5432 failed: {text}\nhint'
    )
    found = str(explained(OperationalError(given)))
    assert found.startswith(text.removeprefix("FATAL:  ").split(",")[0])
    assert step in found
    assert "\n" not in found
