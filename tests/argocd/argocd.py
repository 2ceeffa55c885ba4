"""The real Argo CD on loopback: repo-server, application-controller, Redis and a git daemon.

It needs a control plane. What is missing is argocd-server (no test uses the user interface) and Dex.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import urllib3
import yaml
from tests.argocd.kubectl import kubectl
from tests.cluster import build
from tests.cluster.control_plane import GO_MEMORY, free_ports, tether
from tests.support.components import RedisServer
from tests.support.engine import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.cluster.control_plane import ControlPlane

    Object = dict[str, Any]

MODULE = "github.com/argoproj/argo-cd/v3"
ARGOCD = "/apis/argoproj.io/v1alpha1/namespaces/argocd"
APPLICATIONS = f"{ARGOCD}/applications"
PROGRAMS = (
    "argocd-repo-server",
    "argocd-application-controller",
    "argocd-applicationset-controller",
)


class NotSyncedError(AssertionError):
    """An Application did not reach a state. The message has its status, and the end of Argo CD's logs."""


class GitServer:
    """A git daemon on loopback with one repository, and the clone in which a test commits.

    url: the address of the repository. folder: the work tree.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self._bare = folder / "served" / "reactions.git"
        [self._port] = free_ports(1)
        self.url = f"git://127.0.0.1:{self._port}/reactions.git"
        self._environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("GIT_")},
            "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Ada", "GIT_AUTHOR_EMAIL": "ada@example.com",
            "GIT_COMMITTER_NAME": "Ada", "GIT_COMMITTER_EMAIL": "ada@example.com",
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Create the repository and serve it."""
        self.folder.mkdir(parents=True)
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(self._bare))
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("remote", "add", "origin", str(self._bare))
        daemon = [
            "git", "daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1",
            f"--port={self._port}", f"--base-path={self._bare.parent}",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [*tether(), *daemon], env=self._environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def stop(self) -> None:
        """End the daemon and its children: git daemon starts a process of its own for the port."""
        if self._process:
            _end(self._process)

    def git(self, *arguments: str) -> str:
        """Run git in the clone. Returns its output."""
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, env=self._environment, capture_output=True,
            text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commit(self, message: str, files: Mapping[str, str | None]) -> str:
        """Write files (None: delete), commit and push. Returns the id of the commit."""
        for path, text in files.items():
            file = self.folder / path
            if text is None:
                file.unlink()
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self._push()

    def revert(self) -> str:
        """Revert the last commit and push. Returns the id of the new commit."""
        self.git("revert", "--no-edit", "HEAD")
        return self._push()

    def _push(self) -> str:
        self.git("push", "--quiet", "origin", "main")
        return self.git("rev-parse", "HEAD").strip()


class Redis(RedisServer):
    """Argo CD's cache. It does not need to be on the disk."""

    def command(self) -> list[str]:
        """Return the command line."""
        return [*super().command()[:5], "--save", ""]


class ArgoCD:
    """Argo CD on a control plane. A context manager that ends its processes.

    configuration: keys of argocd-cm. programs: which controllers run, besides the repo-server.
    """

    def __init__(
        self,
        folder: Path,
        plane: ControlPlane,
        configuration: Mapping[str, str],
        *,
        with_application_sets: bool = False,
    ) -> None:
        self.folder = folder
        self.admin = plane.admin
        self.kubeconfig = plane.kubeconfig(plane.admin_token, folder / "argocd.json")
        self.git = GitServer(folder / "git")
        self._configuration = {**configuration, "timeout.reconciliation": "1h"}
        self._application_sets = with_application_sets
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "redis").mkdir()
        self._redis = Redis(folder / "redis")

    def __enter__(self) -> Self:
        try:
            self.git.start()
            self._redis.start()
            self._install()
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End every process."""
        for process in self._processes.values():
            _end(process)
        self._processes.clear()
        self._redis.stop()
        self.git.stop()

    def refresh(self, name: str, how: str = "normal") -> None:
        """Let the controller compare an Application now, as the webhook of a Git server does."""
        annotations = {"argocd.argoproj.io/refresh": how}
        self.admin.patch(f"{APPLICATIONS}/{name}", {"metadata": {"annotations": annotations}})

    def wait_for(
        self,
        name: str,
        predicate: Callable[[Object], Any],
        work: Callable[[], object] = lambda: None,
    ) -> Object:
        """Return the Application as soon as it satisfies the predicate. Raises NotSyncedError.

        work: is called again and again meanwhile, for example for a simulated kubelet.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            work()
            found: Object = self.admin.get(f"{APPLICATIONS}/{name}")
            if predicate(found):
                return found
            threading.Event().wait(0.2)
        status = found.get("status", {})
        shown = {key: status.get(key) for key in ("conditions", "health", "operationState", "sync")}
        raise NotSyncedError(f"{yaml.safe_dump(shown)}\n{self.logs()}")

    def logs(self, lines: int = 25) -> str:
        """Return the end of each program's log."""
        return "\n".join(
            f"--- {name}\n" + "\n".join(self._log(name).read_text().splitlines()[-lines:])
            for name in self._processes
        )

    def _install(self) -> None:
        """Create Argo CD's definitions and its own settings."""
        crds = definitions()
        wanted = ["application", "appproject", *["applicationset"] * self._application_sets]
        files = [part for name in wanted for part in ("-f", str(crds / f"{name}-crd.yaml"))]
        kubectl(self.kubeconfig, "apply", "--server-side", *files)
        self.admin.create("/api/v1/namespaces", {"metadata": {"name": "argocd"}})
        settings = {
            "argocd-cm": self._configuration,
            "argocd-rbac-cm": {},
            "argocd-cmd-params-cm": {},
        }
        for name, data in settings.items():
            labels = {"app.kubernetes.io/part-of": "argocd", "app.kubernetes.io/name": name}
            body = {"metadata": {"name": name, "labels": labels}, "data": data}
            self.admin.create("/api/v1/namespaces/argocd/configmaps", body)
        labels = {"app.kubernetes.io/part-of": "argocd", "app.kubernetes.io/name": "argocd-secret"}
        keys = {"server.secretkey": secrets.token_hex(32), "admin.password": "-"}
        body = {"metadata": {"name": "argocd-secret", "labels": labels}, "stringData": keys}
        self.admin.create("/api/v1/namespaces/argocd/secrets", body)
        for name in ("applications", "appprojects"):
            group = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            self.admin.wait_for(f"{group}/{name}.argoproj.io", _is_established)

    def _start(self) -> None:
        bin_folder = self.folder / "bin"
        bin_folder.mkdir()
        binary, kustomize = build.find("argocd"), build.find("kustomize")
        assert binary
        assert kustomize
        for name in (*PROGRAMS, "argocd-git-ask-pass", "argocd"):
            (bin_folder / name).symlink_to(binary)
        (bin_folder / "kustomize").symlink_to(kustomize)
        repo, repo_metrics, metrics, sets, sets_metrics, probe = free_ports(6)
        redis = f"127.0.0.1:{self._redis.port}"
        self._run(
            "argocd-repo-server", "--disable-tls", "--address", "127.0.0.1", "--port", str(repo),
            "--metrics-address", "127.0.0.1", "--metrics-port", str(repo_metrics), "--redis", redis,
        )  # fmt: skip
        self._run(
            "argocd-application-controller", "--kubeconfig", str(self.kubeconfig), "--namespace", "argocd",
            "--repo-server", f"127.0.0.1:{repo}", "--repo-server-plaintext", "--redis", redis,
            "--metrics-port", str(metrics),
            # Without a limit, each attempt of selfHeal on the same object waits longer.
            "--self-heal-backoff-timeout-seconds", "1", "--self-heal-backoff-cap-seconds", "1",
        )  # fmt: skip
        if self._application_sets:
            self._run(
                "argocd-applicationset-controller", "--kubeconfig", str(self.kubeconfig),
                "--namespace", "argocd", "--argocd-repo-server", f"127.0.0.1:{repo}",
                "--repo-server-plaintext", "--metrics-addr", f"127.0.0.1:{sets_metrics}",
                "--probe-addr", f"127.0.0.1:{probe}", "--webhook-addr", f"127.0.0.1:{sets}",
            )  # fmt: skip
        for name, port in (
            ("argocd-repo-server", repo_metrics),
            ("argocd-application-controller", metrics),
        ):
            self._until_ready(name, f"http://127.0.0.1:{port}/healthz")

    def _run(self, name: str, *flags: str) -> None:
        home = self.folder / name
        home.mkdir()
        for kind in ("tls", "ssh", "gpg", "tmp"):
            (home / kind).mkdir()
        (home / ".kube").mkdir()
        # With ARGOCD_FAKE_IN_CLUSTER, this file is the way to https://kubernetes.default.svc.
        (home / ".kube" / "config").symlink_to(self.kubeconfig)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ARGOCD_", "KUBERNETES_"))}
        environment = {
            **kept,
            "PATH": f"{self.folder / 'bin'}:{kept.get('PATH', '')}",
            "HOME": str(home), "TMPDIR": str(home / "tmp"),
            "ARGOCD_SYNC_WAVE_DELAY": "0", "ARGOCD_FAKE_IN_CLUSTER": "true", "ARGOCD_GPG_ENABLED": "false",
            "ARGOCD_TLS_DATA_PATH": str(home / "tls"), "ARGOCD_SSH_DATA_PATH": str(home / "ssh"),
            "ARGOCD_GNUPGHOME": str(home / "gpg"), "GOMAXPROCS": "2",
            **GO_MEMORY,
        }  # fmt: skip
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*tether(), str(self.folder / "bin" / name), *flags, "--loglevel", "warn"],
                env=environment, cwd=home, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def _until_ready(self, name: str, url: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self._processes[name].poll() is None, f"{name} ended\n{self.logs()}"
            try:
                if urllib3.request("GET", url, retries=False, timeout=2.0).status == 200:
                    return
            except urllib3.exceptions.HTTPError:
                pass
            assert time.monotonic() < deadline, f"{name} is not ready\n{self.logs()}"
            threading.Event().wait(0.05)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def definitions() -> Path:
    """Return the folder with the CustomResourceDefinitions of the version that is built.

    They come from the Go module, and are kept beside the program: a module cache may be cleaned.
    """
    kept = build.cache("argocd") / "crds"
    if not kept.exists():
        command = [build.go(), "mod", "download", "-json", MODULE]
        done = subprocess.run(
            command, cwd=build.MODULES / "argocd", capture_output=True, check=True, timeout=600
        )
        half = kept.with_name(f".crds.{os.getpid()}")
        half.mkdir()
        for file in (Path(json.loads(done.stdout)["Dir"]) / "manifests" / "crds").glob(
            "*-crd.yaml"
        ):
            (half / file.name).write_bytes(file.read_bytes())
        with contextlib.suppress(OSError):  # another test process was faster
            half.rename(kept)
    return kept


def _is_established(definition: Object | None) -> bool:
    conditions = (definition or {}).get("status", {}).get("conditions") or []
    return any((it["type"], it["status"]) == ("Established", "True") for it in conditions)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, which have its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
