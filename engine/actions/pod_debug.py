"""pod.debug: run a command in an ephemeral container of the pod, and collect its output."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from engine.actions.artifact_parameter import OptionalArtifact, store_artifact
from engine.actions.containers import (
    Command,
    Excerpt,
    command_text,
    container_of,
    own_events_suppressed,
)
from engine.actions.managed_objects import short_digest
from engine.actions.parameters import Duration
from engine.actions.registry import ActionResult, StepContext, action
from engine.artifacts.api import MAX_ARTIFACT, ArtifactRecorder
from engine.cluster.api import EPHEMERAL_CONTAINERS, POD, Cluster
from engine.cluster.execution import LogRequest
from engine.cluster.pods import Pod
from engine.language import duration as durations
from engine.model.calls import Call
from engine.model.errors import GoneError, PermanentError

if TYPE_CHECKING:
    from engine.language.findings import Findings
    from engine.language.template import TemplateContext
    from engine.language.yaml_source import Path
    from engine.model.calls import Object
    from engine.model.event import Event

_PINNED = re.compile(r"[a-z0-9][A-Za-z0-9._/:-]{0,254}@sha256:[0-9a-f]{64}")
_START_SECONDS = 120.0
"""Seconds in which the container must start."""
_WAIT = 2.0
"""Seconds between two checks of a container that does not run yet."""
_FAILED = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError")


class PinnedImage(msgspec.Struct, frozen=True):
    """An image with its digest. It has no templates, so that no event selects an image."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return the image."""
        del steps
        if isinstance(data, str) and _PINNED.fullmatch(data):
            return data
        what = f"`{str(data)[:100]}` is not pinned by a digest"
        findings.add(path, "bad-parameter", what, "registry.example.com/NAME@sha256:…")
        return None

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the image."""
        del event, context
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema of an image with a digest."""
        return {"type": "string", "pattern": f"^{_PINNED.pattern}$"}


@action(
    "pod.debug",
    effect="disrupt",
    needs={("get", "pods"), ("patch", EPHEMERAL_CONTAINERS), ("get", "pods/log")},
    example={
        "image": f"registry.example.com/tools/tcpdump@sha256:{'0123456789abcdef' * 4}",
        "command": ["timeout", "60", "tcpdump", "-nn", "-w", "-"],
        "duration": "70s",
        "artifact": "s3://forensics/%k8s.ns.name/%k8s.pod.name/%{run.id}.pcap",
    },
    slow=True,
)
def debug_pod(
    pod: Pod,
    cluster: Cluster,
    artifacts: ArtifactRecorder,
    context: StepContext,
    *,
    image: Annotated[str, PinnedImage()],
    command: Command,
    duration: Annotated[float, Duration()] = 60.0,
    artifact: OptionalArtifact = None,
) -> ActionResult:
    """Add an ephemeral container to the pod, for example with tcpdump, and collect what it prints.

    The container shares the network of the pod and the processes of the event's container. The output is read
    from the log of the container. An ephemeral container cannot be removed or stopped, so the command must end
    on its own (for example `timeout 60 tcpdump …`). If the step has no `timeout`, an attempt can take
    `duration` plus 30 s.

    image: the image, pinned by its digest (`NAME@sha256:…`). It is literal text.
    command: the program and its arguments. The program is literal text. A value of the event stays within its
      argument.
    duration: how long the output is collected.
    artifact: where the output goes, up to 1 GiB. Without it, the history keeps the first 16 KiB.
    """
    if artifact:
        artifacts.check(artifact)
    name = f"tiercel-{short_digest(10, context.run, context.step)}"
    period = durations.text(duration)
    message = f"debug {pod} with {command_text(command)} for {period} (container {name})"
    if _status(pod.object, name) is None and not _has(pod, name):
        target = container_of(pod, context, None)
        _add(pod, cluster, {"name": name, "image": image, "command": command}, target)
    found = cluster.get(POD, pod.name, pod.namespace)
    if found is None or (found.get("metadata") or {}).get("uid") not in (None, pod.uid):
        raise GoneError(f"pod {pod} is gone")
    if not _has_started(found, name):
        key = f"debug {context.step}"
        since = float(context.attempt_state.get(key) or context.now)
        if context.now > since + _START_SECONDS:
            raise PermanentError(f"the container {name} did not start in {_START_SECONDS:.0f} s")
        if key not in context.attempt_state:
            context.keep({key: since})
        if artifact:
            artifacts.plan(artifact)
        return ActionResult(message, again=(_WAIT, f"the container {name} has not started yet"))
    query = {"follow": "true", "limitBytes": str(MAX_ARTIFACT)}
    began = time.monotonic()
    output = cluster.read_log(LogRequest(pod.namespace, pod.name, name, query, duration))
    excerpt = Excerpt(output, limit=MAX_ARTIFACT)
    stored = None
    with own_events_suppressed(found, context, name), contextlib.closing(output):
        if artifact:
            stored = store_artifact(artifacts, context, artifact, excerpt)
        else:
            excerpt.read()
    return _result(message, excerpt, stored, context, runs=time.monotonic() - began >= duration)


def _result(
    message: str, excerpt: Excerpt, stored: Any, context: StepContext, *, runs: bool
) -> ActionResult:
    """Return the result of a container whose output was collected. runs: whether it may still run."""
    note = "; the container may still run" if runs else ""
    if stored:
        what = f"{message}: {stored.size:,} bytes to {stored.url}{note}"
        return ActionResult(what, {"artifact": stored.json()})
    return ActionResult(f"{message}: {excerpt.size:,} bytes{note}", excerpt.answer(context))


def _add(pod: Pod, cluster: Cluster, container: Object, target: str) -> None:
    """Add an ephemeral container. The resourceVersion protects containers that others add at the same time."""
    added = {**container, "targetContainerName": target, "imagePullPolicy": "IfNotPresent"}
    metadata = {"uid": pod.uid}
    version = pod.metadata.get("resourceVersion")
    if version:
        metadata["resourceVersion"] = version
    containers = [*(pod.spec.get("ephemeralContainers") or []), added]
    body = {"metadata": metadata, "spec": {"ephemeralContainers": containers}}
    cluster.send(Call("patch", "v1", EPHEMERAL_CONTAINERS, pod.namespace, pod.name, body))


def _has(pod: Pod, name: str) -> bool:
    containers = pod.spec.get("ephemeralContainers") or []
    return any(container.get("name") == name for container in containers)


def _status(pod: Object, name: str) -> Object | None:
    statuses = (pod.get("status") or {}).get("ephemeralContainerStatuses") or []
    return next((status for status in statuses if status.get("name") == name), None)


def _has_started(pod: Object, name: str) -> bool:
    """Whether the container runs or has ended. Raises PermanentError if its image cannot be pulled."""
    state = (_status(pod, name) or {}).get("state") or {}
    waiting = state.get("waiting") or {}
    if waiting.get("reason") in _FAILED:
        reason = f"{waiting['reason']}: {str(waiting.get('message') or '')[:200]}"
        raise PermanentError(f"the container {name} cannot start: {reason}")
    return bool(state.get("running") or state.get("terminated"))
