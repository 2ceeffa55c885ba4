"""`make sbom`: the software bill of materials of the image."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def make_sbom(folder):
    """Run the target with this environment instead of .venv, and return the document.

    A release validates it too, which takes 6 seconds.
    """
    ready = folder / "ready"
    ready.touch()  # newer than requirements.txt, so that make installs nothing
    file = folder / "sbom.cdx.json"
    command = [
        "make",
        "sbom",
        f"READY={ready}",
        f"BIN={Path(sys.executable).parent}",
        f"SBOM={file}",
        "SBOM_OPTIONS=--no-validate",
    ]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1767225600"}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return json.loads(file.read_text())


def test_the_sbom_has_exactly_the_packages_of_the_image_with_their_versions_and_hashes(tmp_path):
    sbom = make_sbom(tmp_path)
    lock = (ROOT / "requirements-run.txt").read_text().replace("\\\n", "")
    pinned = {
        match[1]: (match[2], set(re.findall(r"sha256:([0-9a-f]{64})", match[3])))
        for match in re.finditer(r"^([a-z0-9._-]+)(?:\[\w+\])?==(\S+)(.*)$", lock, re.MULTILINE)
    }
    listed = {
        one["name"]: (
            one["version"],
            {it["content"] for it in one["externalReferences"][0]["hashes"]},
        )
        for one in sbom["components"]
    }
    assert len(sbom["components"]) == len(listed)
    assert listed == pinned
    assert (sbom["bomFormat"], sbom["metadata"]["component"]["name"]) == ("CycloneDX", "tiercel")
    # The same content at the same time of the source, so that a release can be checked.
    assert sbom["metadata"]["timestamp"] == "2026-01-01T00:00:00+00:00"
