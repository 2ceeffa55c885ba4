"""The container image, built with the real Dockerfile by buildah, which needs no daemon.

A root file system from Debian's packages replaces the base image, because a test uses no registry of images.
The first stage is the base of the others, so ``--from`` replaces it everywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.support.components import have

ROOT = Path(__file__).parents[2]
PACKAGES = "ca-certificates,python-is-python3,python3-pip"
EPOCH = "1767225600"
GUARD = 600


class Buildah:
    """Buildah with its own store in a folder."""

    def __init__(self, folder):
        self.folder = folder
        store = ["--root", str(folder / "store"), "--runroot", str(folder / "run")]
        self.program = [have("buildah"), *store, "--storage-driver", "vfs"]
        # The build uses the certificates and the package index of this machine.
        self.certificates = ["--volume", "/etc/ssl/certs:/etc/ssl/certs:ro"]

    def __call__(self, *arguments):
        """Run a command and return its output without the last line break."""
        result = subprocess.run(
            [*self.program, *arguments],
            env={**os.environ, "TMPDIR": str(self.folder)},
            capture_output=True, text=True, check=False, timeout=GUARD,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout.strip()

    def build(self, name, context, *arguments):
        """Build an image from a folder, and return its description."""
        self(
            "build", "--isolation", "chroot", "--network", "host", "--from", "localhost/base",
            "--timestamp", EPOCH, "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}",
            *self.certificates, *arguments, "--tag", name, str(context),
        )  # fmt: skip
        return json.loads(self("inspect", "--type", "image", f"localhost/{name}"))


@pytest.fixture
def buildah(size):
    if not size.full:
        pytest.skip("the suite checks the Dockerfile with BuildKit's rules")
    if os.geteuid() != 0:
        pytest.skip("mmdebstrap and a chroot need root")
    bootstrap = have("mmdebstrap")
    # Not tmp_path, which stays: the store has about 2 GB.
    with tempfile.TemporaryDirectory(prefix="tiercel-image-") as name:
        folder = Path(name)
        buildah = Buildah(folder)
        base = str(folder / "base.tar")
        subprocess.run(
            [bootstrap, "--quiet", "--variant=minbase", f"--include={PACKAGES}", "bookworm", base],
            check=True, timeout=GUARD,
        )  # fmt: skip
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, base, "/")
        buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container)
        buildah("commit", "--quiet", "--rm", container, "base")
        yield buildah
        buildah("rm", "--all")


def files(folder):
    """Return the path, mode, owner, time and content of each file of a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        content = None
        if path.is_symlink():
            content = str(path.readlink()).encode()
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(folder))] = (
            about.st_mode, about.st_uid, about.st_gid, int(about.st_mtime), content,
        )  # fmt: skip
    return found


def copy_of_the_checkout(folder):
    """Copy the build context with other times, other modes, and files that must not get into the image."""
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, copy = ROOT / line[1:], folder / line[1:]
            if source.is_dir():
                shutil.copytree(source, copy, copy_function=shutil.copyfile)
            else:
                shutil.copyfile(source, copy)
    shutil.copyfile(ROOT / ".dockerignore", folder / ".dockerignore")
    shutil.copyfile(ROOT / "Dockerfile", folder / "Dockerfile")
    (folder / "engine" / "__pycache__").mkdir(exist_ok=True)
    (folder / "engine" / "__pycache__" / "left.cpython-311.pyc").write_bytes(b"left over")
    (folder / "tokens").write_text("secret")
    return folder


def test_the_image_is_reproducible_and_runs_as_an_ordinary_user(size, buildah, tmp_path):
    labels = ("--build-arg", "VERSION=1.2.3", "--build-arg", "REVISION=0123abc")
    one = buildah.build("one", ROOT, *labels)
    two = buildah.build("two", copy_of_the_checkout(tmp_path), *labels)
    containers = [buildah("from", f"localhost/{name}") for name in ("one", "two")]
    folders = [Path(buildah("mount", it)) / "opt" / "tiercel" for it in containers]
    contents = [files(folder) for folder in folders]
    differ = [
        path for path in contents[0] | contents[1] if contents[0].get(path) != contents[1].get(path)
    ]
    assert differ == []
    assert one["OCIv1"]["rootfs"] == two["OCIv1"]["rootfs"]
    assert {entry[3] for entry in contents[0].values()} == {int(EPOCH)}

    config = one["OCIv1"]["config"]
    assert (config["User"], config["Entrypoint"]) == ("65532:65532", ["tiercel"])
    assert config["Labels"]["org.opencontainers.image.version"] == "1.2.3"
    assert config["Labels"]["org.opencontainers.image.revision"] == "0123abc"
    run = ["run", "--isolation", "chroot", containers[0], "--"]
    assert buildah(*run, "id", "-u") == "65532"
    newest = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert buildah(*run, "tiercel", "--version") == f"tiercel, version {newest}"
    imports = "from kubernetes import config; from kubernetes.client import ApiClient; ApiClient()"
    buildah(*run, "python", "-c", imports)
    assert answers_its_probe(buildah, containers[0])
    content = sum(len(entry[4] or b"") for entry in contents[0].values())
    size.tell(environment_mb=round(content / 1e6), files=len(contents[0]))


def answers_its_probe(buildah, container):
    """Start the engine in the image with the shipped playbooks, and wait until it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as a, socket.create_server(("127.0.0.1", 0)) as b:
        events, admin = a.getsockname()[1], b.getsockname()[1]
    command = [
        *buildah.program, "run", "--isolation", "chroot", "--network", "host",
        "--volume", f"{ROOT / 'playbooks'}:/etc/tiercel/playbooks:ro", container, "--",
        "tiercel", "serve", "--dry-run", "--playbooks", "/etc/tiercel/playbooks",
        "--listen", f"127.0.0.1:{events}", "--admin-listen", f"127.0.0.1:{admin}",
        "--journal", "/tmp/tiercel.db",  # noqa: S108 - in the container
    ]  # fmt: skip
    log = buildah.folder / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    pause = threading.Event()
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError),
                urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=5) as answer,
            ):
                return answer.status == 200
            pause.wait(0.1)
        raise AssertionError(log.read_text())
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
