"""A journal is refused on disks of other machines, whatever they are mounted under."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine.journal import disk
from engine.journal.disk import untrusted
from engine.journal.journal import JournalError
from engine.journal.sqlite import SqliteJournal

from tests.journals import thaw

MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:40 / /data rw - %s server:/export rw
31 30 8:2 / /data/local rw shared:5 - xfs /dev/sdb rw
32 22 0:41 / /with\\040blank rw - nfs4 server:/x rw
broken line
"""


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "ceph", "fuse", "fuse.sshfs", "9p"]
)
def test_a_disk_of_another_machine_is_not_trusted(kind):
    assert untrusted(Path("/data/tiercel"), MOUNTS % kind) == kind
    assert untrusted(Path("/data"), MOUNTS % kind) == kind


@pytest.mark.parametrize("folder", ["/", "/var/lib", "/data/local/x", "/database"])
def test_a_local_disk_is_trusted_also_within_another(folder):
    assert untrusted(Path(folder), MOUNTS % "nfs") is None


def test_what_is_mounted_later_on_the_same_place_counts():
    later = MOUNTS % "nfs" + "33 30 8:3 / /data rw - ext4 /dev/sdc rw\n"
    assert untrusted(Path("/data/x"), later) is None


def test_blanks_in_a_path_are_understood():
    assert untrusted(Path("/with blank/x"), MOUNTS % "nfs") == "nfs4"


def test_a_journal_there_is_refused_with_the_reason(tmp_path, monkeypatch):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / {tmp_path} rw - nfs4 server:/x rw\n")
    monkeypatch.setattr(disk, "MOUNTS", mounts)
    with pytest.raises(JournalError, match=r"on nfs4.*local disk"):
        SqliteJournal(tmp_path / "j.db", thaw)
