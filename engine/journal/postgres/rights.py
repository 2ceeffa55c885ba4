"""The rights of the engine's role: one sentence with the statement that grants what is missing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from psycopg.rows import tuple_row

from engine.journal.postgres.functions import FUNCTIONS_1
from engine.journal.postgres.partitions import PARTITION_FUNCTIONS_1
from engine.journal.postgres.schema import TABLES_1
from engine.model.errors import JournalError

if TYPE_CHECKING:
    import psycopg

_TABLES = re.findall(r"CREATE TABLE (\w+)", TABLES_1)
_FUNCTIONS = re.findall(r"CREATE FUNCTION (\w+)", FUNCTIONS_1 + PARTITION_FUNCTIONS_1)
# a list of rights in one call would ask for any of them
_MISSING = """
SELECT current_user,
  EXISTS (SELECT FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relname = ANY(%s)
    AND NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
      AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))),
  EXISTS (SELECT FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relname = 'runs_seq'
    AND NOT has_sequence_privilege(oid, 'USAGE')),
  EXISTS (SELECT FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND proname = ANY(%s)
    AND NOT has_function_privilege(oid, 'EXECUTE'))
"""


def check_rights(connection: psycopg.Connection[Any]) -> None:
    """Refuse a role that cannot use the tables and functions. Raises JournalError, psycopg.Error."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(_MISSING, (_TABLES, _FUNCTIONS)).fetchone()
    if row is None:
        raise JournalError("the server does not answer")
    role, *missing = row
    for kind, is_missing in zip(("TABLES", "SEQUENCES", "FUNCTIONS"), missing, strict=True):
        if is_missing:
            raise no_rights(role, kind)


_GRANTS = {
    "TABLES": "SELECT, INSERT, UPDATE, DELETE",
    "SEQUENCES": "USAGE, UPDATE",
    "FUNCTIONS": "EXECUTE",
}


def no_rights(role: str, kind: str = "TABLES") -> JournalError:
    """Return the error of a role that lacks rights. kind: TABLES, SEQUENCES or FUNCTIONS."""
    return JournalError(
        f"the role {role} may not use the {kind.lower()}: GRANT {_GRANTS[kind]} ON ALL {kind} IN SCHEMA public"
        f" TO {role} (docs/replicas.md has all rights)"
    )
