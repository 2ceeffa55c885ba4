"""Artifacts in files and in emulators of S3, Google Cloud Storage and Azure."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import obstore
import pytest
from engine.artifacts.api import ArtifactRecorder
from engine.artifacts.live_store import LiveArtifactStore
from engine.artifacts.object_store import PART
from engine.artifacts.url import parse_artifact_url, store_list
from engine.model.errors import PermanentError, RefusedError, TemporaryError
from tests.support.object_stores import (
    BUCKET,
    CLASSES,
    azure_variables,
    azurite,
    s3_emulator,
    s3_variables,
)

CHUNK = bytes(range(256)) * 256
EXACTLY_ONE_PART = PART // len(CHUNK)
LARGE = EXACTLY_ONE_PART + 3


@pytest.fixture(scope="module")
def emulators():
    """Scheme -> the variables of its SDK."""
    with s3_emulator() as s3, azurite() as azure:
        yield {"s3": s3_variables(s3), "gs": s3_variables(s3), "az": azure_variables(azure)}


def test_an_upload_is_prevented_if_another_replica_may_have_taken_over(tmp_path):
    def check():
        raise TemporaryError("may have taken over")

    stores = store_list(f"file://{tmp_path}")
    requests = []
    recorder = ArtifactRecorder(requests, LiveArtifactStore(stores), stores, check)
    with pytest.raises(TemporaryError, match="taken over"):
        recorder.write(f"file://{tmp_path}/a", [b"x"], reserve=None, media_type="text/plain")
    assert (requests, [*tmp_path.iterdir()]) == ([], [])


class Files:
    def __init__(self, folder):
        self.base = f"file://{folder}"
        self.stores = store_list(self.base)
        self.folder = folder

    def read(self, key):
        return (self.folder / key).read_bytes()

    def names(self):
        found = (p.relative_to(self.folder) for p in self.folder.rglob("*") if p.is_file())
        return sorted(map(str, found))


class Bucket:
    def __init__(self, scheme, prefix):
        self.base = f"{scheme}://{BUCKET}/{prefix}"
        self.stores = store_list(self.base)
        self._store, self._prefix = CLASSES[scheme](BUCKET), prefix

    def read(self, key):
        return bytes(obstore.get(self._store, f"{self._prefix}/{key}").bytes())

    def names(self):
        found = obstore.list(self._store, self._prefix).collect()
        return sorted(one["path"].removeprefix(f"{self._prefix}/") for one in found)


@pytest.fixture(params=["file", "s3", "gs", "az"])
def place(request, monkeypatch, tmp_path):
    if request.param == "file":
        return Files(tmp_path)
    for name, value in request.getfixturevalue("emulators")[request.param].items():
        monkeypatch.setenv(name, value)
    return Bucket(request.param, tmp_path.name)


def write(place, key, chunks, reserve=lambda: None, **options):
    store = LiveArtifactStore(place.stores, **options)
    url = parse_artifact_url(f"{place.base}/{key}")
    return store.write(url, chunks, reserve=reserve, media_type="application/gzip")


@pytest.mark.parametrize("count", [0, 1, EXACTLY_ONE_PART, LARGE])
def test_the_bytes_arrive(place, count):
    sent = [CHUNK] * count
    artifact = write(place, "run/out.bin", iter(sent))
    assert place.read("run/out.bin") == b"".join(sent)
    digest = hashlib.sha256(b"".join(sent)).hexdigest()
    assert (artifact.size, artifact.sha256, artifact.cut) == (len(CHUNK) * count, digest, False)
    assert artifact.url == f"{place.base}/run/out.bin"
    assert place.names() == ["run/out.bin"]


@pytest.mark.parametrize("count", [1, LARGE])
def test_nothing_appears_if_the_source_fails(place, count):
    def source():
        yield from [CHUNK] * count
        raise TemporaryError("the server closed the connection")

    with pytest.raises(TemporaryError, match="the server closed"):
        write(place, "half.bin", source())
    assert place.names() == []


def test_an_endless_source_is_cut(place):
    def endless():
        while True:
            yield CHUNK

    artifact = write(place, "endless.bin", endless(), limit=len(CHUNK) + 7)
    assert (artifact.size, artifact.cut) == (len(CHUNK) + 7, True)
    assert place.read("endless.bin") == CHUNK + CHUNK[:7]


def test_a_source_that_takes_too_long_leaves_nothing(place):
    with pytest.raises(TemporaryError, match="timed out"):
        write(place, "late.bin", iter([CHUNK]), timeout=-1.0)
    assert place.names() == []


def test_an_artifact_that_exists_is_not_replaced(place):
    reserved = []
    write(place, "a.txt", [b"first"], lambda: reserved.append(1))
    with pytest.raises(PermanentError, match="exists"):
        write(place, "a.txt", [b"second"], lambda: reserved.append(2))
    assert (place.read("a.txt"), reserved) == (b"first", [1])
    write(place, "a.txt", [b"again, after a crash"], None)
    assert place.read("a.txt") == b"again, after a crash"


def test_a_store_that_is_not_listed_is_refused(place):
    store = LiveArtifactStore(store_list("file:///elsewhere,s3://elsewhere,s3://forensics/other"))
    with pytest.raises(RefusedError, match="artifact-stores"):
        store.write(
            parse_artifact_url(f"{place.base}/a"), [b"x"], reserve=None, media_type="text/plain"
        )
    assert place.names() == []


@pytest.mark.parametrize("scheme", ["s3", "az"])
def test_a_bucket_that_does_not_exist_is_a_permanent_error(scheme, emulators, monkeypatch):
    for name, value in emulators[scheme].items():
        monkeypatch.setenv(name, value)
    url = parse_artifact_url(f"{scheme}://missing/key")
    with pytest.raises(PermanentError, match=f"{scheme}://missing: ") as error:
        LiveArtifactStore(None).write(url, [b"x"], reserve=None, media_type="text/plain")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_store_that_does_not_answer_is_a_temporary_error(scheme, monkeypatch, closed):
    variables = azure_variables if scheme == "az" else s3_variables
    for name, value in variables(closed).items():
        monkeypatch.setenv(name, value)
    url = parse_artifact_url(f"{scheme}://{BUCKET}/key")
    with pytest.raises(TemporaryError, match=f"{scheme}://{BUCKET}: ") as error:
        LiveArtifactStore(None, timeout=1.0).write(
            url, [b"x"], reserve=None, media_type="text/plain"
        )
    assert "secret-of-the-tests" not in str(error.value)


@pytest.fixture
def closed():
    """HOST:PORT that refuses connections: the port is bound, but nothing listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"


def test_a_symbolic_link_in_the_path_is_refused(tmp_path):
    outside, base = tmp_path / "outside", tmp_path / "base"
    outside.mkdir()
    base.mkdir()
    (base / "link").symlink_to(outside)
    (base / "file").symlink_to(outside / "target")
    place = Files(base)
    for key in ("link/a", "file"):
        for reserve in (lambda: None, None):
            with pytest.raises(PermanentError):
                write(place, key, [b"x"], reserve)
    assert list(outside.iterdir()) == []


def test_a_full_disk_is_a_temporary_error_and_leaves_nothing():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    with pytest.raises((TemporaryError, PermanentError)):
        write(Files(Path("/dev")), "full", [b"x"], None)


def test_only_the_owner_can_read_a_file(tmp_path):
    write(Files(tmp_path), "folder/a", [b"x"])
    found = [tmp_path / "folder", tmp_path / "folder/a"]
    assert [one.stat().st_mode & 0o077 for one in found] == [0, 0]
