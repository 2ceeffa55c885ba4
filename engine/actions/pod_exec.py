"""pod.exec: run a command in a container of the pod."""

from __future__ import annotations

from typing import Annotated

from engine.actions.artifact_parameter import OptionalArtifact, store_artifact
from engine.actions.containers import (
    Command,
    Excerpt,
    command_text,
    container_of,
    running_command,
)
from engine.actions.parameters import Text, check_namespace
from engine.actions.registry import ActionResult, StepContext, action
from engine.artifacts.api import MAX_ARTIFACT, ArtifactRecorder
from engine.cluster.api import Cluster
from engine.cluster.pods import Pod
from engine.model.errors import PermanentError, TemporaryError

_MAX_REASON = 300


@action(
    "pod.exec",
    effect="disrupt",
    needs={("get", "pods"), ("get", "pods/exec"), ("create", "pods/exec")},
    example={"command": ["cat", "/proc/net/tcp"]},
    repeatable=False,
    slow=True,
)
def execute_command(
    pod: Pod,
    cluster: Cluster,
    artifacts: ArtifactRecorder,
    context: StepContext,
    *,
    command: Command,
    container: Annotated[str | None, Text(check_namespace)] = None,
    artifact: OptionalArtifact = None,
) -> ActionResult:
    """Run a command in one container of the pod, without a shell, a terminal or input.

    The step fails if the exit code is not 0, or if the command does not end within the `timeout` of the step.
    The history keeps the first 16 KiB of the output, or `artifact` gets up to 1 GiB of it. The image must
    contain the program. A command may have run although the step failed. Therefore a step that was interrupted
    is not repeated.

    command: the program and its arguments. The program is literal text. A value of the event stays within its
      argument. Write `--` before it if the program could read it as an option.
    container: the container. The default is the container of the event, or the pod's default container.
    artifact: where the output goes, in place of the history.
    """
    name = container_of(pod, context, container)
    if artifact:
        artifacts.check(artifact)
    message = f"run {command_text(command)} in {pod} ({name})"
    stored = None
    with running_command(cluster, pod, context, name, command) as output:
        excerpt = Excerpt(output, limit=MAX_ARTIFACT)
        if artifact:
            try:
                stored = store_artifact(artifacts, context, artifact, excerpt)
            except TemporaryError as error:  # another attempt would run the command again
                raise PermanentError(f"{error}; the command may have run") from None
        else:
            excerpt.read()
    if excerpt.cut:
        raise PermanentError(f"{message}: stopped after {MAX_ARTIFACT >> 30} GiB of output")
    code = output.exit_code
    if code:
        end = context.redact(excerpt.text()).strip()[-_MAX_REASON:]
        raise PermanentError(f"exit code {code}{': ' if end else ''}{end}")
    if stored:
        answer = {"exitCode": code, "artifact": stored.json()}
        return ActionResult(f"{message}: {stored.size:,} bytes to {stored.url}", answer)
    if not excerpt.size and not artifact:
        return ActionResult(message, {"exitCode": code, **excerpt.answer(context)})
    if artifact:
        return ActionResult(message)
    return ActionResult(
        f"{message}: {excerpt.size:,} bytes", {"exitCode": code, **excerpt.answer(context)}
    )
