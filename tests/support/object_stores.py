"""Emulators of object stores on loopback: S3 (and the XML API of Google Cloud Storage), and Azure's Azurite."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import re
import shutil
import subprocess
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest
import urllib3
from obstore.store import AzureStore, GCSStore, S3Store
from tests.cluster import build
from tests.cluster.control_plane import tether
from tests.cluster.fixtures import require
from tests.node import install

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "forensics"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's account and its key, which its documentation publishes."""
CLASSES = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}


def s3_variables(address: str) -> dict[str, str]:
    """Return the variables of both SDKs for the emulator of S3. It does not check signatures."""
    account = {"gcs_base_url": f"http://{address}", "disable_oauth": True, "client_email": ""}
    return {
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_ALLOW_HTTP": "true",
        "GOOGLE_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
        "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(
            {**account, "private_key": "", "private_key_id": ""}
        ),
    }


def azure_variables(address: str) -> dict[str, str]:
    """Return the variables of Azure's SDK for Azurite. It checks signatures."""
    return {
        "AZURE_STORAGE_ENDPOINT": f"http://{address}/{ACCOUNT}",
        "AZURE_ALLOW_HTTP": "true",
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": KEY,
    }


@contextlib.contextmanager
def s3_emulator() -> Iterator[str]:
    """Run gofakes3 with an empty bucket. Yield HOST:PORT."""
    require("object-stores")
    with _running([str(build.find("object-stores")), BUCKET]) as lines:
        yield next(lines).strip()


@contextlib.contextmanager
def azurite() -> Iterator[str]:
    """Run Azurite in memory, without containers. Yield HOST:PORT."""
    modules, node = install.modules(), shutil.which("node")
    if modules is None or node is None:
        pytest.skip("run `make node-modules`")
    program = str(modules / "azurite" / "dist" / "src" / "blob" / "main.js")
    options = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"]
    with _running(
        [node, program, *options, "--disableTelemetry", "--skipApiVersionCheck"]
    ) as lines:
        found = (re.search(r"listens on http://(\S+)", line) for line in lines)
        address = next(match[1] for match in found if match)
        create_container(address, BUCKET)
        yield address


def create_container(address: str, name: str) -> None:
    """Create a container, with a signature as in "Authorize with Shared Key" of Azure's documentation."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
    lines = [f"{key}:{value}" for key, value in headers.items()]
    resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    text = "\n".join(["PUT", *[""] * 11, *lines, resource])
    digest = hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    url = f"http://{address}/{ACCOUNT}/{name}?restype=container"
    answer = urllib3.request("PUT", url, headers=headers, retries=False)
    assert answer.status == 201, answer.data


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[Iterator[str]]:
    """Run a program, and yield its lines."""
    with subprocess.Popen([*tether(), *command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield iter(process.stdout)
        finally:
            process.kill()
