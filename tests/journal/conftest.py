"""Replicas on one PostgreSQL database."""

from __future__ import annotations

import contextlib

import pytest
from tests.support.journals import open_replica
from tests.support.postgres import database_of, shared_server

EMPTY = (
    "TRUNCATE arrived, runs, history, run_ids, events, targets, throttle_windows, budget_windows, undo_intents,"
    " pauses, replicas"
)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The URL of a database with the tables of a journal."""
    return database_of(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def sql(url):
    """A superuser's connection to the database, which is empty."""
    with shared_server().connect(url.rpartition("/")[2]) as connection:
        connection.execute(EMPTY)
        yield connection


@pytest.fixture
def start(url):
    """Start replicas on the database, which is empty."""
    with shared_server().connect(url.rpartition("/")[2]) as connection:
        connection.execute(EMPTY)
    with contextlib.ExitStack() as stack:

        def start(name="a"):
            one = open_replica(url, name)
            stack.callback(one.close)
            return one

        yield start
