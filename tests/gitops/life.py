"""The life of a playbook repository: commit, render, check, apply, mount, and wait until the set is in force.

Each step uses the real program: git, kustomize, kubectl, the commands of the PreSync and PostSync Jobs, and a
real API server. Git fetches our kustomize/ from a mirror on this machine, because the overlays name it by its
public address.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml
from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.cluster import build
from tests.cluster import fixtures as cluster
from tests.support.engine import Running, call, command_of
from tests.support.kubelet_files import Mount

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.cluster.api import Api
    from tests.cluster.control_plane import ControlPlane

    Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "examples" / "gitops-repository"
ADDRESS = "https://github.com/tiercel/tiercel"
"""The address of this project, as the README and the overlays of the template name it."""
CONFIG_MAPS = "/api/v1/namespaces/tiercel/configmaps"
SECRETS = "/api/v1/namespaces/tiercel/secrets"
PLAYBOOKS = "tiercel-playbooks"
CANDIDATE = "tiercel-playbooks-candidate"
TOKEN, STATUS_TOKEN = "a-token-of-a-sender-0001", "a-token-of-the-job-00001"
GUARD = 60.0
"""Seconds after which a program that hangs is ended."""
_SHARED = ("kustomize", "examples/gitops-repository", "playbooks", "rules")


def needs() -> None:
    """Skip the test if kustomize is not built, or build it in CI."""
    cluster.require("kustomize")


def version() -> str:
    """Return the version at the top of CHANGELOG.md."""
    found = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert found
    return found[1]


class CommandError(Exception):
    """A command that failed. The message is the command with its output."""

    def __init__(self, command: Iterable[str], code: int, output: str) -> None:
        super().__init__(f"{' '.join(command)}: exit code {code}\n{output}")
        self.code = code
        self.output = output


class Mirror:
    """A bare clone of this project on disk, with the tag ``v<version>``.

    It contains the files of the working tree, so that the tests see what is not committed yet.
    environment: variables with which git, and kustomize through git, use the mirror instead of ``ADDRESS``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tiercel.git"
        config = folder / "gitconfig"
        config.write_text(
            "[user]\n\tname = Ada Lovelace\n\temail = ada@example.com\n[init]\n\tdefaultBranch = main\n"
            "[commit]\n\tgpgSign = false\n[tag]\n\tgpgSign = false\n[advice]\n\tdetachedHead = false\n"
        )
        kept = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
        self.environment = {
            **kept, "GIT_CONFIG_GLOBAL": str(config), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0",
        }  # fmt: skip
        tree = folder / "tree"
        for path in _SHARED:
            shutil.copytree(ROOT / path, tree / path, ignore=shutil.ignore_patterns("__pycache__"))
        self.git(tree, "init", "--quiet")
        self.git(tree, "add", "--all")
        self.git(tree, "commit", "--quiet", "--message", "Release")
        self.git(tree, "tag", f"v{version()}")
        self.git(tree, "clone", "--quiet", "--bare", ".", str(self.folder))
        self.redirect(ADDRESS, self.folder)

    def redirect(self, address: str, to: Path | str) -> None:
        """Let git use another repository in place of an address."""
        to = to.as_uri() if isinstance(to, Path) else to
        self.git(self.folder, "config", "--global", f"url.{to}.insteadOf", address)

    def git(self, folder: Path, *arguments: str) -> str:
        """Run git in a folder. Returns its output. Raises CommandError."""
        return run(["git", "-C", str(folder), *arguments], self.environment)


class Repository:
    """A clone of a team's repository. revision: its last commit. environment: of the mirror."""

    def __init__(self, folder: Path, mirror: Mirror) -> None:
        self.folder = folder
        self.mirror = mirror
        self.environment = mirror.environment
        self.revision = ""
        self._rendered: dict[tuple[str, str], list[Object]] = {}

    @classmethod
    def start(cls, folder: Path, mirror: Mirror) -> Self:
        """Make a repository from the template, with one commit."""
        shutil.copytree(TEMPLATE, folder)
        made = cls(folder, mirror)
        made.git("init", "--quiet")
        made.commit("Start from the template", {})
        return made

    @classmethod
    def clone(cls, address: str, folder: Path, mirror: Mirror) -> Self:
        """Clone a repository."""
        mirror.git(mirror.folder, "clone", "--quiet", address, str(folder))
        made = cls(folder, mirror)
        made._head()
        return made

    def git(self, *arguments: str) -> str:
        """Run git in the clone. Returns its output."""
        return self.mirror.git(self.folder, *arguments)

    def read(self, path: str) -> str:
        """Return the text of a file."""
        return (self.folder / path).read_text()

    def commit(self, message: str, files: Mapping[str, str | None]) -> str:
        """Write files (None: delete) and commit them. Returns the id of the commit."""
        for path, text in files.items():
            if text is None:
                (self.folder / path).unlink()
            else:
                (self.folder / path).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self._head()

    def revert(self) -> str:
        """Revert the last commit. Returns the id of the new commit."""
        self.git("revert", "--no-edit", "HEAD")
        return self._head()

    def _head(self) -> str:
        self.revision = self.git("rev-parse", "HEAD").strip()
        return self.revision

    def pull(self, branch: str) -> str:
        """Fast-forward to a branch of the origin. Returns the id of its last commit."""
        self.git("pull", "--quiet", "--ff-only", "origin", branch)
        return self._head()

    def render(self, overlay: str) -> list[Object]:
        """Render an overlay of the last commit as Argo CD does: with the label of the revision."""
        if (self.revision, overlay) not in self._rendered:
            self._rendered[self.revision, overlay] = self._render(overlay)
        return copy.deepcopy(self._rendered[self.revision, overlay])

    def _render(self, overlay: str) -> list[Object]:
        folder = self.folder.parent / f"{self.folder.name}-{self.revision[:12]}"
        if not folder.exists():
            self.mirror.git(self.folder, "clone", "--quiet", "--no-hardlinks", ".", str(folder))
        at = folder / "overlays" / overlay
        kustomize = str(program())
        label = f"tiercel.dev/revision:{self.revision}"
        command = [kustomize, "edit", "add", "label", "--without-selector", "--force", label]
        run(command, self.mirror.environment, at)
        rendered = run([kustomize, "build", str(at)], self.mirror.environment)
        return list(yaml.safe_load_all(rendered))


def program() -> Path:
    """Return the path of the real kustomize."""
    found = build.find("kustomize")
    assert found
    return found


def run(
    command: list[str],
    environment: Mapping[str, str],
    folder: Path | None = None,
    given: str | None = None,
) -> str:
    """Return what a command writes to stdout. Raises CommandError with everything that it wrote."""
    done = subprocess.run(
        command, env=dict(environment), cwd=folder, input=given, capture_output=True, text=True,
        timeout=GUARD, check=False,
    )  # fmt: skip
    if done.returncode:
        raise CommandError(command, done.returncode, done.stdout + done.stderr)
    return done.stdout


def one(objects: Iterable[Object], kind: str, name: str) -> Object:
    """Return the object with that kind and name."""
    [found] = [it for it in objects if (it["kind"], it["metadata"]["name"]) == (kind, name)]
    return found


def files(config_map: Object) -> dict[str, bytes]:
    """Return the files that the kubelet writes for a ConfigMap."""
    return {name: text.encode() for name, text in config_map.get("data", {}).items()}


def kubectl(kubeconfig: Path, *arguments: str, given: str | None = None) -> str:
    """Run kubectl. Returns its output. Raises CommandError."""
    beside = Path(sys.executable).parent / "kubectl"
    command = str(beside) if beside.exists() else "kubectl"
    flags = ["--kubeconfig", str(kubeconfig), "--cache-dir", str(kubeconfig.parent / "cache")]
    return run([command, *flags, *arguments], os.environ, given=given)


def is_hook(item: Object) -> bool:
    """Whether Argo CD treats an object as a hook, and not as a part of the application."""
    return "argocd.argoproj.io/hook" in item["metadata"].get("annotations", {})


def mounted(admin: Api) -> dict[str, bytes]:
    """Return the files of the playbooks as the API server has them now."""
    return files(admin.get(f"{CONFIG_MAPS}/{PLAYBOOKS}"))


def run_pod(pod: Object, mounts: Mapping[str, Path], **environment: str) -> str:
    """Run all containers of a pod one after the other. Returns what they write. Raises CommandError.

    mounts: name of the ConfigMap or Secret -> the folder that has its files.
    """
    folders = {name: mounts[source] for name, source in sources(pod).items() if source in mounts}
    containers = [*pod.get("initContainers", []), *pod["containers"]]
    return "".join(run_container(it, folders, **environment) for it in containers)


def sources(pod: Object) -> dict[str, str]:
    """Return the name of the ConfigMap or Secret of each volume that has one.

    Of a projected volume, it is the first source.
    """
    found = {}
    for volume in pod["volumes"]:
        for source in volume.get("projected", {}).get("sources", [volume]):
            config_map, secret = source.get("configMap", {}), source.get("secret", {})
            name = config_map.get("name") or secret.get("secretName") or secret.get("name")
            if name:
                found.setdefault(volume["name"], name)
    return found


def run_container(container: Object, folders: Mapping[str, Path], **environment: str) -> str:
    """Run a container's command in this process. Returns its output. Raises CommandError.

    folders: name of the volume -> the folder that is mounted. Mount paths in arguments and variables become
    these folders. environment: replaces variables of the container.
    """
    paths = {it["mountPath"]: str(folders[it["name"]]) for it in container.get("volumeMounts", [])}

    variables = [it for it in container.get("env", []) if "value" in it]
    given = {it["name"]: local(it["value"], paths) for it in variables}
    words = [
        local(word, paths) for word in container["args"]
    ]  # the command of the image is tiercel
    done = CliRunner().invoke(cli, words, prog_name="tiercel", env={**given, **environment})
    if done.exit_code:
        raise CommandError(["tiercel", *words], done.exit_code, done.output)
    return done.output


def local(text: str, paths: Mapping[str, str]) -> str:
    """Return a text with local folders in place of mount paths.

    It is one pass, because a folder of the test can contain a mount path, such as /tmp.
    """
    longest_first = sorted(paths, key=len, reverse=True)
    mounts = re.compile("|".join(map(re.escape, longest_first)) or "$^")
    return mounts.sub(lambda found: paths[found[0]], text)


def settings(stateful_set: Object, folders: Mapping[str, Path]) -> dict[str, str]:
    """Return the variables of the engine's container.

    folders: name of the ConfigMap or Secret -> the folder that has its files. The addresses and the journal are
    left out, because a test has its own.
    """
    template = stateful_set["spec"]["template"]["spec"]
    [container] = template["containers"]
    named = sources(template)
    paths = {
        it["mountPath"]: str(folders[named[it["name"]]])
        for it in container["volumeMounts"]
        if named.get(it["name"]) in folders
    }
    downward = {
        "metadata.namespace": "tiercel", "metadata.name": "tiercel-0", "spec.nodeName": "worker-1",
        "spec.serviceAccountName": template["serviceAccountName"],
    }  # fmt: skip
    given = {}
    for variable in container["env"]:
        if variable["name"] in ("TIERCEL_LISTEN", "TIERCEL_ADMIN_LISTEN", "TIERCEL_JOURNAL"):
            continue
        text = variable.get("value") or downward[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        given[variable["name"]] = local(text, paths)
    return given


class Installation:
    """The engine of an overlay: its objects in the API server, its mounts, and its process.

    kubeconfig: of an administrator, as Argo CD has it. A context manager that ends the engine and removes its
    objects.
    """

    def __init__(self, folder: Path, plane: ControlPlane) -> None:
        self.folder = folder
        self.plane = plane
        self.admin = plane.admin
        self.kubeconfig = plane.kubeconfig(plane.admin_token, folder / "admin.json")
        self.playbooks: Mount | None = None
        self._engine: Running | None = None
        self._applied: list[Object] = []
        self._numbers = itertools.count()

    @property
    def engine(self) -> Running:
        """The running engine."""
        assert self._engine
        return self._engine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._engine:
            self._engine.close()
        # The namespace and the account stay: they are the engine's identity in other tests.
        kept = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding")
        given = yaml.safe_dump_all([it for it in self._applied if it["kind"] not in kept])
        flags = ("delete", "--ignore-not-found", "--wait=false", "-f", "-")
        kubectl(self.kubeconfig, *flags, given=given)
        for secret in self.admin.list(SECRETS):
            self.admin.delete(f"{SECRETS}/{secret['metadata']['name']}")
        self.admin.wait_for("/api/v1/namespaces/tiercel/pods/tiercel-0", lambda pod: pod is None)

    def create_secrets(self, slack: str = "") -> None:
        """Create the namespace and the Secrets that the README of the template creates.

        slack: the URL of a webhook, for the Secret of playbooks.
        """
        if not self.admin.find("/api/v1/namespaces/tiercel"):
            self.admin.create("/api/v1/namespaces", {"metadata": {"name": "tiercel"}})
        digest = hashlib.sha256(STATUS_TOKEN.encode()).hexdigest()
        contents = {
            "tiercel-tokens": {"tokens": TOKEN},
            "tiercel-status-token": {"token": STATUS_TOKEN},
            "tiercel-operators": {"operators": f"in-force view {digest}"},
        }
        if slack:
            contents["tiercel-secrets"] = {"slack-webhook-url": slack}
        for name, content in contents.items():
            self.admin.create(SECRETS, {"metadata": {"name": name}, "stringData": content})

    def install(self, objects: list[Object]) -> None:
        """Apply objects for the first time and start the engine, without the Jobs of Argo CD."""
        self.apply(objects)
        self.mount()

    def sync(self, objects: list[Object]) -> str:
        """Bring objects into force, as Argo CD does: PreSync, apply, PostSync. Returns what PostSync says.

        Raises CommandError.
        """
        self.check(objects)
        self.apply(objects)
        self.mount()
        return self.wait_until_in_force(objects)

    def check(self, objects: list[Object]) -> str:
        """Run the PreSync Job over the candidate. Returns its output. Raises CommandError if it fails."""
        folder = self.folder / f"candidate-{next(self._numbers)}"
        candidate = Mount(folder, files(one(objects, "ConfigMap", CANDIDATE)))
        pod = one(objects, "Job", "tiercel-check")["spec"]["template"]["spec"]
        return run_pod(pod, {CANDIDATE: candidate.folder})

    def apply(self, objects: list[Object]) -> str:
        """Apply objects, except hooks, with server-side apply. Returns kubectl's output. Raises CommandError."""
        self._applied = [it for it in objects if not is_hook(it)]
        given = yaml.safe_dump_all(self._applied)
        return kubectl(
            self.kubeconfig, "apply", "--server-side", "--force-conflicts", "-f", "-", given=given
        )

    def mount(self) -> None:
        """Give the engine the files that the API server has, as the kubelet does. Starts the engine first."""
        content = mounted(self.admin)
        if self.playbooks:
            self.playbooks.write(content)
        else:
            self.playbooks = Mount(self.folder / PLAYBOOKS, content)
            self._start(self.playbooks.folder)

    def wait_until_in_force(self, objects: list[Object]) -> str:
        """Run the PostSync Job, which waits until the mounted set is in force. Raises CommandError."""
        assert self.playbooks
        pod = one(objects, "Job", "tiercel-in-force")["spec"]["template"]["spec"]
        mounts = {PLAYBOOKS: self.playbooks.folder, **self._secrets(pod)}
        return run_pod(pod, mounts, TIERCEL_SERVER=self.engine.admin)

    def status(self) -> Object:
        """Return /status of the engine."""
        found: Object = json.loads(self.admin_page("/status"))
        return found

    def admin_page(self, path: str) -> str:
        """Return the text of a page of the admin port."""
        token = decoded(self.admin.get(f"{SECRETS}/tiercel-status-token"))["token"].decode()
        headers = {"Authorization": f"Bearer {token}"}
        status, _, content = call(self.engine.admin, "GET", path, headers=headers)
        assert status == 200, content
        return content if isinstance(content, str) else json.dumps(content)

    def _start(self, playbooks: Path) -> None:
        stateful_set = self.admin.get("/apis/apps/v1/namespaces/tiercel/statefulsets/tiercel")
        mounts = self._secrets(stateful_set["spec"]["template"]["spec"])
        variables = settings(stateful_set, {PLAYBOOKS: playbooks, **mounts})
        account = "/api/v1/namespaces/tiercel/serviceaccounts/tiercel/token"
        asked = {"spec": {"expirationSeconds": 7200}}
        token = self.admin.create(account, asked)["status"]["token"]
        cluster.wait_for_rights(self.admin)
        config = self.plane.kubeconfig(token, self.folder / "engine.json")
        flags = ("--kubeconfig", str(config))
        self._engine = Running(*command_of(self.folder, playbooks, flags, variables), self.folder)

    def _secrets(self, pod: Object) -> dict[str, Path]:
        """Mount the Secrets of a pod. Returns name -> folder."""
        found = {name: self.admin.find(f"{SECRETS}/{name}") for name in sources(pod).values()}
        return {
            name: Mount(self.folder / f"{name}-{next(self._numbers)}", decoded(secret)).folder
            for name, secret in found.items()
            if secret
        }


def decoded(secret: Object) -> dict[str, bytes]:
    """Return the files that the kubelet writes for a Secret."""
    return {key: base64.b64decode(text) for key, text in secret.get("data", {}).items()}
