"""The signature of a release, with the real cosign and with a key: no network, and no identity of a workflow."""

from __future__ import annotations

import os
import subprocess

import pytest
from tests.cluster import build

OFFLINE = {
    "sign-blob": ["--use-signing-config=false", "--tlog-upload=false", "--yes"],
    "verify-blob": ["--private-infrastructure", "--insecure-ignore-tlog=true"],
}


@pytest.fixture(scope="module")
def cosign(tmp_path_factory):
    """Return a function that runs cosign in a folder with a key pair, and returns the finished process."""
    if os.environ.get("TIERCEL_SOAK") != "1" and build.find("cosign") is None:
        pytest.skip("run `python tests/cluster/build.py cosign`")
    if build.find("cosign") is None:
        build.build("cosign")
    folder = tmp_path_factory.mktemp("cosign")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "COSIGN_PASSWORD": "secret"}

    def run(command, *arguments):
        return subprocess.run(
            [str(build.find("cosign")), command, *OFFLINE.get(command, []), *map(str, arguments)],
            cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    made = run("generate-key-pair")
    assert made.returncode == 0, made.stderr
    return run


@pytest.fixture
def signed(cosign, tmp_path):
    """Return a file and its signature."""
    file, bundle = tmp_path / "sbom.cdx.json", tmp_path / "sbom.bundle"
    file.write_text('{"bomFormat": "CycloneDX"}\n')
    done = cosign("sign-blob", "--key", "cosign.key", "--bundle", bundle, file)
    assert done.returncode == 0, done.stderr
    return file, bundle


def test_a_signed_file_is_verified(cosign, signed):
    file, bundle = signed
    done = cosign("verify-blob", "--key", "cosign.pub", "--bundle", bundle, file)
    assert (done.returncode, "Verified OK" in done.stderr) == (0, True), done.stderr


def test_a_changed_file_is_refused(cosign, signed):
    file, bundle = signed
    file.write_text(file.read_text() + " ")
    done = cosign("verify-blob", "--key", "cosign.pub", "--bundle", bundle, file)
    assert done.returncode != 0
    assert "Verified OK" not in done.stderr


def test_the_key_of_another_maintainer_is_refused(cosign, signed):
    file, bundle = signed
    made = cosign("generate-key-pair", "--output-key-prefix", "other")
    assert made.returncode == 0, made.stderr
    done = cosign("verify-blob", "--key", "other.pub", "--bundle", bundle, file)
    assert done.returncode != 0
