"""pod.logs: collect the log of a container of the pod."""

from __future__ import annotations

from typing import Annotated

from engine.actions.artifact_parameter import OptionalArtifact, store_artifact
from engine.actions.containers import Excerpt, container_of
from engine.actions.parameters import Integer, Text, check_namespace
from engine.actions.registry import ActionResult, StepContext, action
from engine.artifacts.api import MAX_ARTIFACT, ArtifactRecorder
from engine.cluster.api import Cluster
from engine.cluster.execution import LogRequest
from engine.cluster.pods import Pod

MAX_READ = 16 << 20
"""Bytes that are read if the log goes to the history."""
MAX_LINES = 10_000_000


@action(
    "pod.logs",
    effect="observe",
    needs={("get", "pods"), ("get", "pods/log")},
    example={"lines": 500},
)
def collect_log(
    pod: Pod,
    cluster: Cluster,
    artifacts: ArtifactRecorder,
    context: StepContext,
    *,
    lines: Annotated[int, Integer(1, MAX_LINES)] = 100,
    previous: bool = False,
    container: Annotated[str | None, Text(check_namespace)] = None,
    artifact: OptionalArtifact = None,
) -> ActionResult:
    """Collect the end of the log of one container, for example before a later step removes the pod.

    The history keeps the last 16 KiB, or `artifact` gets up to 1 GiB. A preview does not read the log.

    lines: the number of lines.
    previous: read the log of the container before its last restart.
    container: the container. The default is the container of the event, or the pod's default container.
    artifact: where the log goes, in place of the history.
    """
    name = container_of(pod, context, container)
    if artifact:
        artifacts.check(artifact)
    which = "previous log" if previous else "log"
    message = f"the last {lines:,} lines of the {which} of {pod} ({name})"
    query = {"tailLines": str(lines), "limitBytes": str(MAX_ARTIFACT if artifact else MAX_READ)}
    if previous:
        query["previous"] = "true"
    output = cluster.read_log(LogRequest(pod.namespace, pod.name, name, query))
    if artifact:
        try:
            stored = store_artifact(artifacts, context, artifact, output, "text/plain")
        finally:
            output.close()
        if stored is None:
            return ActionResult(message)
        what = f"{message}: {stored.size:,} bytes to {stored.url}"
        return ActionResult(what, {"artifact": stored.json()})
    excerpt = Excerpt(output, keep_end=True, limit=MAX_READ)
    excerpt.read()
    sized = f"{message}: {excerpt.size:,} bytes" if excerpt.size else message
    return ActionResult(sized, excerpt.answer(context))
