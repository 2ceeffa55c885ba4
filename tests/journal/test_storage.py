"""A journal is refused on file systems that are unsafe for SQLite, and its size depends on the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from engine.journal.sqlite import storage
from engine.journal.sqlite.journal import SqliteJournal
from engine.journal.sqlite.storage import max_journal_bytes, unsafe_file_system
from engine.model.errors import JournalError
from tests.soak.machine import small_disk
from tests.support.engine import engine, wait_until
from tests.support.intake import PLAYBOOK, alert
from tests.support.journals import stored_playbook

MOUNTS = b"""\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /data rw - %s server:/export rw
31 30 8:2 / /data/local rw shared:5 - xfs /dev/sdb rw
32 22 0:41 / /with\\040blank rw - nfs4 server:/x rw
broken line
"""


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "ceph", "fuse", "fuse.sshfs", "fuseblk", "9p"]
)
def test_network_and_fuse_file_systems_are_unsafe(kind):
    assert unsafe_file_system(Path("/data/tiercel"), MOUNTS % kind.encode()) == kind
    assert unsafe_file_system(Path("/data"), MOUNTS % kind.encode()) == kind


@pytest.mark.parametrize("folder", ["/", "/var/lib", "/data/local/x", "/database"])
def test_a_local_file_system_is_safe_even_inside_a_network_mount(folder):
    assert unsafe_file_system(Path(folder), MOUNTS % b"nfs") is None


def test_the_last_mount_on_a_path_counts():
    later = MOUNTS % b"nfs" + b"33 30 8:3 / /data rw - ext4 /dev/sdc rw\n"
    assert unsafe_file_system(Path("/data/x"), later) is None


def test_escaped_spaces_in_a_mount_point_are_decoded():
    assert unsafe_file_system(Path("/with blank/x"), MOUNTS % b"nfs") == "nfs4"


@pytest.mark.parametrize("name", ["dönen 日", "\\040", "a\rb", "\udcff\udcfe"])
def test_a_mount_may_have_any_name(name):
    """The kernel writes spaces, tabs, newlines and backslashes in octal, and all other bytes unchanged."""
    escaped = os.fsencode(name)
    for letter in b"\\ \t\n":
        escaped = escaped.replace(bytes([letter]), b"\\%03o" % letter)
    mounts = MOUNTS % b"xfs" + b"33 22 0:42 / /%b rw - nfs server:/x rw\n" % escaped
    assert unsafe_file_system(Path("/", name, "x"), mounts) == "nfs"
    assert unsafe_file_system(Path("/data"), mounts) is None


def test_a_journal_on_an_unsafe_file_system_is_refused_with_the_reason(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / {tmp_path} rw - nfs4 server:/x rw\n")
    monkeypatch.setattr(storage, "MOUNTS", mounts)
    with pytest.raises(JournalError, match=r"on nfs4.*local disk"):
        SqliteJournal(tmp_path / "j.db", stored_playbook)


@pytest.mark.parametrize(
    ("disk", "most"), [(1 << 30, 858_993_459), (1 << 40, 4 << 30), (0, 4 << 30)]
)
def test_the_maximum_size_is_80_percent_of_the_disk_and_at_most_4_gib(disk, most):
    assert max_journal_bytes(Path("/"), disk) == most


def test_on_a_small_disk_the_journal_is_full_before_the_disk_and_grows_with_the_disk(tmp_path):
    with small_disk(tmp_path / "small", 40) as has:
        flags = ("--dry-run", "--journal", str(tmp_path / "small" / "tiercel.db"))
        with engine(tmp_path, {"a.yaml": PLAYBOOK}, *flags) as running:
            assert (
                running.wait_for_log(lambda line: line["event"] == "journal_opened")["max_size"]
                == "32 MiB"
            )
            number, said = 0, {}
            while said.get("error") is None:
                _, _, said = running.post([alert(number + n, pad="x" * 4_000) for n in range(500)])
                number += 500
            assert said["error"].startswith("nothing was accepted: the journal is full")
            assert (tmp_path / "small" / "tiercel.db").stat().st_size <= 32 << 20
            has(80)
            wait_until(
                lambda: running.post(alert(number))[0] == 202,
                "the journal refuses events on the larger disk",
            )
