"""What to do about a connection that the server or the network refuses: the next step for each known reason.

The texts are those of libpq and of PostgreSQL. A server that speaks another language than English gives its own
text without the next step.
"""

from __future__ import annotations

import re

import psycopg

_NEXT = (
    (r'database "(.+)" does not exist', "create it with CREATE DATABASE {0}"),
    (r'role "(.+)" does not exist', "create it with CREATE ROLE {0} LOGIN"),
    (r'role "(.+)" is not permitted to log in', "let it with ALTER ROLE {0} LOGIN"),
    (
        r'permission denied for database "?([^"\s]+)"?',
        "GRANT CONNECT ON DATABASE {0} to the role",
    ),
    (
        r"password authentication failed|no password supplied",
        "write the password of the role into the file of --journal-password-file",
    ),
    (r"no pg_hba\.conf entry", "add an entry for this role and address on the server"),
    (
        r"too many connections|connection slots",
        "raise max_connections of the server, or the CONNECTION LIMIT of the role",
    ),
    (
        r"certificate verify failed|root certificate file",
        "name the certificate of its authority with sslrootcert=FILE in the URL",
    ),
    (
        r"server does not support SSL",
        "turn on ssl in the server, because it is on another machine",
    ),
    (
        r"invalid response to SSL|Connection refused|timeout expired|resolve host|translate host|No route to",
        "start the server, or correct its address",
    ),
)
_PREFIX = re.compile(r"^connection failed: (?:connection to server .*? failed: )?(?:FATAL: +)?")


def explained(error: psycopg.OperationalError) -> psycopg.OperationalError:
    """Return the error of a connection as one sentence with the next step. The address is not repeated."""
    text = (str(error).strip().splitlines() or ["the server does not answer"])[0]
    text = _PREFIX.sub("", text)
    for pattern, next_step in _NEXT:
        found = re.search(pattern, text)
        if found:
            return psycopg.OperationalError(f"{text}: {next_step.format(*found.groups())}")
    return psycopg.OperationalError(text)
