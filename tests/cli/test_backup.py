"""tiercel backup copies a journal that an engine uses."""

from __future__ import annotations

import shutil
import stat
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.soak.burst import NOTE, Burst, drained
from tests.support.engine import engine

FILES = {"a.yaml": NOTE}


def backup(*arguments):
    return CliRunner().invoke(cli, ["backup", *map(str, arguments)])


@pytest.fixture
def journal(tmp_path):
    with engine(tmp_path, FILES, "--dry-run"):
        pass
    return tmp_path / "tiercel.db"


def test_an_engine_starts_with_a_copy_that_was_made_during_a_burst(tmp_path):
    copies, restored = tmp_path / "copies", tmp_path / "restored"
    copies.mkdir()
    restored.mkdir()
    with engine(tmp_path, FILES, "--dry-run") as running, Burst(running, "demo") as burst:
        burst.has_sent(50)
        acknowledged = list(burst.runs.values())
        done = backup(copies / "a", "--journal", tmp_path / "tiercel.db")
        assert (done.exit_code, done.output) == (0, "")
        burst.has_sent(len(burst.runs) + 50)  # senders are served after the copy as before it
    assert [path.name for path in copies.iterdir()] == ["a"]
    assert stat.S_IMODE((copies / "a").stat().st_mode) == 0o600
    shutil.copy(copies / "a", restored / "tiercel.db")
    with engine(restored, FILES, "--dry-run") as running:
        drained(running)
        for run in acknowledged:
            assert running.get(f"/runs/{run}")[2]["outcome"] == "planned"


def test_a_dash_writes_the_copy_to_stdout_and_leaves_nothing_beside_the_journal(tmp_path, journal):
    before = {path.name for path in tmp_path.iterdir()}
    done = backup("-", "--journal", journal)
    assert done.exit_code == 0
    assert done.stdout_bytes.startswith(b"SQLite format 3\0")
    assert {path.name for path in tmp_path.iterdir()} - before <= {
        "tiercel.db-shm",
        "tiercel.db-wal",
    }


def test_an_existing_file_is_not_overwritten(tmp_path, journal):
    (tmp_path / "a").write_text("mine")
    done = backup(tmp_path / "a", "--journal", journal)
    assert (done.exit_code, done.stderr) == (1, f"{tmp_path / 'a'}: File exists\n")
    assert (tmp_path / "a").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            None,
            "there is no such file\nPass the file of the engine: tiercel backup FILE --journal JOURNAL",
        ),
        (b"", "is not a journal of Tiercel"),
        (b"x" * 5000, "file is not a database"),
    ],
)
def test_a_file_that_is_not_a_journal_is_an_error_and_leaves_no_copy(tmp_path, content, message):
    if content is not None:
        (tmp_path / "j").write_bytes(content)
    done = backup(tmp_path / "a", "--journal", tmp_path / "j")
    assert done.exit_code == 1
    assert message in done.stderr
    assert not (tmp_path / "a").exists()


def test_a_journal_in_a_database_is_refused_with_the_tools_that_copy_it(tmp_path):
    done = backup(tmp_path / "a", "--journal", "postgresql://tiercel@db.example/tiercel")
    assert done.exit_code == 2
    assert "this journal is a database" in done.stderr
    assert "pg_dump" in done.stderr


def test_the_last_free_space_is_left_to_the_engine(tmp_path, journal, monkeypatch):
    free = SimpleNamespace(free=64 << 20)
    monkeypatch.setattr("engine.journal.sqlite.backup.shutil.disk_usage", lambda _: free)
    done = backup(tmp_path / "a", "--journal", journal)
    assert done.exit_code == 1
    assert (
        "has 64 MiB free, and a copy needs 128 MiB: write the copy to another disk" in done.stderr
    )
    assert not (tmp_path / "a").exists()
