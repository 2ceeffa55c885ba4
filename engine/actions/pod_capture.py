"""pod.capture: collect the evidence of a pod in one archive."""

from __future__ import annotations

import functools
import zlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from engine.actions.artifact_parameter import ArtifactParameter, store_artifact
from engine.actions.composite_parameters import ListOf
from engine.actions.containers import Excerpt, container_of, running_command
from engine.actions.parameters import Choice
from engine.actions.registry import ActionResult, StepContext, action
from engine.artifacts.api import ArtifactRecorder
from engine.cluster.api import EVENT, Cluster
from engine.cluster.execution import LogRequest
from engine.cluster.pods import Pod
from engine.model.errors import GoneError, MissingRightError, PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from engine.actions.registry import Right

MAX_PART = 4 << 20
"""Bytes of one part, such as the log of a container. A capture keeps one part in memory."""
MAX_CONTAINERS = 20
"""Containers whose logs are collected."""
_LINES = 100_000
_PROCESSES = ["ps", "auxww"]
_NETWORK = [
    "cat", "/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6", "/proc/net/unix",
    "/proc/net/route", "/proc/net/arp", "/etc/resolv.conf", "/etc/hosts",
]  # fmt: skip
_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
_GZIP = 31
"""zlib: a gzip header and trailer, with the largest window."""
Part = Literal["manifest", "events", "logs", "processes", "network"]
PARTS: tuple[Part, ...] = ("manifest", "events", "logs", "processes", "network")


def _needs(parameters: Mapping[str, Any]) -> frozenset[Right]:
    what = parameters.get("what") or PARTS
    needed: set[Right] = {("get", "pods")}
    if "events" in what:
        needed.add(("list", "events"))
    if "logs" in what:
        needed.add(("get", "pods/log"))
    if "processes" in what or "network" in what:
        needed |= {("get", "pods/exec"), ("create", "pods/exec")}
    return frozenset(needed)


@action(
    "pod.capture",
    effect="observe",
    needs=_needs,
    example={
        "what": ["manifest", "events", "logs"],
        "artifact": "s3://forensics/%k8s.ns.name/%k8s.pod.name/%{run.id}.tar.gz",
    },
)
def capture_pod(
    pod: Pod,
    cluster: Cluster,
    artifacts: ArtifactRecorder,
    context: StepContext,
    *,
    artifact: ArtifactParameter,
    what: Annotated[list[Part] | None, ListOf(Choice(PARTS))] = None,
) -> ActionResult:
    """Collect the manifest, events, logs, processes and connections of the pod in one archive (tar.gz).

    The parts `processes` and `network` run `ps auxww` and `cat /proc/net/…` in the container of the event. If an
    image does not have these programs, the archive has a file with the reason, and the message names it. The
    step fails if nothing could be collected. It also fails if a right is missing: then the other parts are
    stored, and the message names the archive. A preview reads no logs and runs no commands.

    artifact: where the archive goes.
    what: the parts. The default is all of them. `manifest` is the Pod, `events` are its Kubernetes Events, and
      `logs` are the last 4 MiB of the log of each container, also from before its last restart.
    """
    artifacts.check(artifact)
    wanted = [part for part in PARTS if part in (what or PARTS)]
    message = f"capture {', '.join(wanted)} of {pod}"
    files = _Files(pod, cluster, context, wanted)
    archive = _archive(files, int(context.now))
    stored = store_artifact(artifacts, context, artifact, archive, "application/gzip")
    if stored is None:  # a preview makes the same calls
        for _ in archive:
            pass
        return ActionResult(message)
    missing = f" without {', '.join(files.missing)}" if files.missing else ""
    if files.denied is not None:
        stored_text = f"{stored.size:,} bytes are in {stored.url}{missing}"
        raise PermanentError(f"{files.denied}; {stored_text}")
    answer = {"artifact": stored.json(), "missing": files.missing}
    return ActionResult(f"{message}: {stored.size:,} bytes to {stored.url}{missing}", answer)


class _Files:
    """The files of the archive, made one after the other.

    missing: the names of the files that could not be collected. denied: the first error of a missing right.
    """

    def __init__(
        self, pod: Pod, cluster: Cluster, context: StepContext, wanted: list[Part]
    ) -> None:
        self._pod, self._cluster, self._context, self._wanted = pod, cluster, context, wanted
        self.missing: list[str] = []
        self.denied: MissingRightError | None = None

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the content of each file. Raises PermanentError if nothing could be collected."""
        collected = 0
        for name, collect in self._sources():
            try:
                content = collect()
            except (PermanentError, GoneError) as error:
                self.missing.append(name)
                if isinstance(error, MissingRightError):
                    self.denied = self.denied or error
                yield f"{name}.error.txt", f"{error}\n".encode()
            else:
                collected += 1
                yield name, content
        if not collected:
            why = f": {self.denied}" if self.denied is not None else ""
            raise PermanentError(f"nothing could be collected of {self._pod}{why}")

    def _sources(self) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """Yield the name of each file, and a function that collects its content."""
        for part in self._wanted:
            if part == "manifest":
                yield "manifest.json", self._manifest
            elif part == "events":
                yield "events.json", self._events
            elif part == "logs":
                yield from self._logs()
            else:
                command = _PROCESSES if part == "processes" else _NETWORK
                yield f"{part}.txt", functools.partial(self._run, command)

    def _manifest(self) -> bytes:
        return _indented(self._pod.object)

    def _events(self) -> bytes:
        found = self._cluster.list(EVENT, self._pod.namespace)
        uid = self._pod.uid
        return _indented([e for e in found if (e.get("involvedObject") or {}).get("uid") == uid])

    def _logs(self) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """Yield the logs of the containers, and the earlier logs of those that were restarted."""
        spec, status = self._pod.spec, self._pod.object.get("status") or {}
        containers = [one for key in _CONTAINERS for one in spec.get(key) or []]
        statuses = status.get("containerStatuses") or []
        restarted = {one.get("name") for one in statuses if one.get("restartCount")}
        for name in [str(one.get("name")) for one in containers[:MAX_CONTAINERS]]:
            yield f"logs/{name}.log", functools.partial(self._log, name)
            if name in restarted:
                earlier = functools.partial(self._log, name, previous="true")
                yield f"logs/{name}.previous.log", earlier

    def _log(self, container: str, **query: str) -> bytes:
        limits = {"tailLines": str(_LINES), "limitBytes": str(MAX_PART), "timestamps": "true"}
        pod = self._pod
        log = LogRequest(pod.namespace, pod.name, container, {**limits, **query})
        output = self._cluster.read_log(log)
        return b"".join(Excerpt(output, limit=MAX_PART))

    def _run(self, command: list[str]) -> bytes:
        container = container_of(self._pod, self._context, None)
        with running_command(self._cluster, self._pod, self._context, container, command) as output:
            content = b"".join(Excerpt(output, limit=MAX_PART))
        if not content and output.exit_code:
            raise PermanentError(f"{command[0]}: exit code {output.exit_code}")
        return content


def _indented(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2)


def _archive(files: _Files, when: int) -> Iterator[bytes]:
    """Yield a tar.gz of the files, as it is made. when: epoch seconds."""
    import tarfile  # noqa: PLC0415 - a tenth of the start of `tiercel check`

    compressor = zlib.compressobj(wbits=_GZIP)
    for name, content in files:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime, entry.mode = len(content), when, 0o600
        padding = bytes(-len(content) % tarfile.BLOCKSIZE)
        for data in (entry.tobuf(tarfile.PAX_FORMAT), content, padding):
            yield compressor.compress(data)
    yield compressor.compress(bytes(2 * tarfile.BLOCKSIZE))
    yield compressor.flush()
