"""Run the pods of the namespace tiercel as processes, as a node would.

Commands, arguments, variables and mounts come from the pods in the API server. The mounts are folders, and
paths and addresses in arguments and variables are changed to theirs. The pod of the StatefulSet is a real
engine. The container of a Job runs until it ends, and its exit code becomes the status of the pod.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tests.cluster.api import ApiError
from tests.cluster.fixtures import wait_for_rights
from tests.cluster.kubelet import container_status
from tests.support.engine import ROOT, Running
from tests.support.kubelet_files import Mount

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.control_plane import ControlPlane

    Object = dict[str, Any]

CORE = "/api/v1/namespaces/tiercel"
STATEFUL_SET_POD = "tiercel-0"


@dataclass
class JobRun:
    """A pod of a Job. output: what its containers wrote. code: None while it runs."""

    job: str
    pod: Object
    containers: list[Object]
    output: str = ""
    code: int | None = None
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None
    folders: dict[str, Path] = field(default_factory=dict)


class Node:
    """One node. ``work`` does what is due now; it never waits. A context manager that ends all processes.

    engine: the running engine, None before the first sync. runs: the pods of Jobs, oldest first.
    """

    def __init__(self, folder: Path, plane: ControlPlane) -> None:
        self.folder = folder
        self.engine: Running | None = None
        self.runs: list[JobRun] = []
        self._plane, self._admin = plane, plane.admin
        self._playbooks: Mount | None = None
        self._sources: list[Object] = []
        self._content: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.engine:
            self.engine.close()
        for run in self.runs:
            if run.process and run.process.poll() is None:
                run.process.kill()
                run.process.wait()

    def work(self) -> None:
        """Start what is not running yet, report what has ended, and update the mounted playbooks."""
        for pod in self._admin.list(f"{CORE}/pods"):
            if pod["status"].get("phase") != "Running" or "deletionTimestamp" in pod["metadata"]:
                continue
            if pod["metadata"]["name"] == STATEFUL_SET_POD and self.engine is None:
                self._start_engine(pod)
            elif (job := pod["metadata"]["labels"].get("job-name")) and not self._is_known(pod):
                containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
                self.runs.append(JobRun(job, pod, containers))
        for run in self.runs:
            if run.code is None:
                self._continue(run)
        self._update_playbooks()

    def run_of(self, job: str) -> JobRun:
        """Return the newest pod of a Job."""
        return [run for run in self.runs if run.job == job][-1]

    def _is_known(self, pod: Object) -> bool:
        return any(run.pod["metadata"]["uid"] == pod["metadata"]["uid"] for run in self.runs)

    def _start_engine(self, pod: Object) -> None:
        folder = self.folder / STATEFUL_SET_POD
        folder.mkdir()
        folders = self._mounts(pod, folder)
        [container] = pod["spec"]["containers"]
        arguments, environment = local(pod, container, folders)
        account = pod["spec"]["serviceAccountName"]
        asked = {"spec": {"expirationSeconds": 7200}}
        token = self._admin.create(f"{CORE}/serviceaccounts/{account}/token", asked)
        wait_for_rights(self._admin)
        config = self._plane.kubeconfig(token["status"]["token"], folder / "kubeconfig.json")
        environment["TIERCEL_LISTEN"] = environment["TIERCEL_ADMIN_LISTEN"] = "127.0.0.1:0"
        command = [sys.executable, "-m", "engine", *arguments, "--kubeconfig", str(config)]
        self.engine = Running(command, environment, folder)

    def _update_playbooks(self) -> None:
        """Update the mount of the engine, but only when the PostSync Job waits: a kubelet takes its time."""
        if self._playbooks is None:
            return
        waits = [run for run in self.runs if run.job == "tiercel-in-force" and run.code is None]
        if waits and waits[-1].log and "Waiting for" in waits[-1].log.read_text():
            files = self._files(self._sources)
            if files != self._content:
                self._content = files
                self._playbooks.write(files)

    def _continue(self, run: JobRun) -> None:
        """Take the pod of a Job one step on."""
        if run.process is None:
            folder = self.folder / run.pod["metadata"]["uid"]
            if not run.folders:
                folder.mkdir()
                run.folders = self._mounts(run.pod, folder)
            container = run.containers[0]
            arguments, environment = local(run.pod, container, run.folders)
            if self.engine:
                environment["TIERCEL_SERVER"] = self.engine.admin
            run.log = folder / f"{container['name']}.log"
            with run.log.open("wb") as log:
                run.process = subprocess.Popen(
                    [sys.executable, "-m", "engine", *arguments],
                    env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )  # fmt: skip
            return
        code = run.process.poll()
        if code is None:
            return
        assert run.log
        run.output += run.log.read_text()
        run.process = None
        del run.containers[0]
        if code or not run.containers:  # a failed init container ends the pod
            run.code = code
            self._report(run)

    def _report(self, run: JobRun) -> None:
        """Write the exit code into the status of the pod. A pod that was deleted meanwhile has no status."""
        ended = {"terminated": {"exitCode": run.code, "message": run.output[-2048:]}}
        statuses = [container_status(run.pod, one, ended) for one in run.pod["spec"]["containers"]]
        status = {
            "phase": "Failed" if run.code else "Succeeded",
            "containerStatuses": [{**one, "ready": False} for one in statuses],
        }
        body = {"metadata": {"uid": run.pod["metadata"]["uid"]}, "status": status}
        try:
            self._admin.patch(f"{CORE}/pods/{run.pod['metadata']['name']}/status", body)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    def _mounts(self, pod: Object, folder: Path) -> dict[str, Path]:
        """Create a folder for each volume, with the content of its ConfigMap or Secret."""
        folders = {}
        for volume in pod["spec"].get("volumes", []):
            at = folders[volume["name"]] = folder / volume["name"]
            sources = volume.get("projected", {}).get("sources", [volume])
            if not any("configMap" in source or "secret" in source for source in sources):
                at.mkdir()
                continue
            mount = Mount(at, self._files(sources))
            if pod["metadata"]["name"] == STATEFUL_SET_POD and volume["name"] == "playbooks":
                self._playbooks, self._sources = mount, sources
        return folders

    def _files(self, sources: list[Object]) -> dict[str, bytes]:
        """Return the files of ConfigMaps and Secrets, as the kubelet mounts them."""
        files: dict[str, bytes] = {}
        for source in sources:
            part = source.get("configMap") or source["secret"]
            kind = "configmaps" if "configMap" in source else "secrets"
            name = part.get("name") or part["secretName"]
            found = self._admin.find(f"{CORE}/{kind}/{name}")
            assert found or part.get("optional"), f"{kind} {name} is missing"
            data = (found or {}).get("data", {})
            files |= {
                key: text.encode() if kind == "configmaps" else base64.b64decode(text)
                for key, text in data.items()
            }
        return files


def local(
    pod: Object, container: Object, folders: dict[str, Path]
) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the variables of a container, with the folders in place of its mount paths."""
    paths = {it["mountPath"]: str(folders[it["name"]]) for it in container.get("volumeMounts", [])}

    # One pass: a folder of the test can contain a mount path, such as /tmp.
    mounts = re.compile("|".join(map(re.escape, sorted(paths, key=len, reverse=True))) or "$^")

    def moved(text: str) -> str:
        return mounts.sub(lambda found: paths[found[0]], text)

    downward = {
        "metadata.namespace": pod["metadata"]["namespace"],
        "metadata.name": pod["metadata"]["name"],
        "spec.nodeName": pod["spec"]["nodeName"],
        "spec.serviceAccountName": pod["spec"].get("serviceAccountName", "default"),
    }
    annotations = pod["metadata"].get("annotations", {})
    downward |= {f"metadata.annotations['{key}']": text for key, text in annotations.items()}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TIERCEL_", "KUBERNETES_"))}
    given: dict[str, str] = {}
    for variable in container.get("env", []):
        if "valueFrom" in variable:
            text = downward[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        else:
            text = moved(variable["value"])
        for name, value in given.items():
            text = text.replace(f"$({name})", value)
        given[variable["name"]] = text
    environment = {**kept, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **given}
    return [moved(word) for word in container["args"]], environment
