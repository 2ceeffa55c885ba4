"""Shared code of the actions on one container: choose it, run a command in it, and keep an excerpt of output."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from engine.actions.parameters import Text
from engine.cluster.api import EXEC
from engine.cluster.pods import same_container
from engine.model.calls import Call
from engine.model.errors import PermanentError
from engine.model.event_subject import subject_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.actions.registry import StepContext
    from engine.cluster.api import Cluster
    from engine.cluster.execution import Output
    from engine.cluster.pods import Pod
    from engine.language.findings import Findings
    from engine.language.template import TemplateContext
    from engine.language.yaml_source import Path
    from engine.model.calls import Object
    from engine.model.event import Event

EXCERPT = 16 << 10
"""Bytes of an output that the history keeps."""
AFTER_COMMAND = 10.0
"""Seconds after the end of a command in which its events may still have the time of the command."""
MAX_WORDS = 64
"""Words of a command."""
_MAX_SHOWN = 200
_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
_SPECS = ("containers", "initContainers", "ephemeralContainers")
_STATUSES = ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses")


def check_argument(text: str) -> str | None:
    """Return what is wrong with an argument of a command, or None."""
    return "contains a NUL character" if "\0" in text else None


_ARGUMENT = Text(check_argument)


class CommandWords(msgspec.Struct, frozen=True):
    """A command as a list of words. No shell reads it. The first word, the program, has no templates."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return the compiled words."""
        if not isinstance(data, list) or not data or len(data) > MAX_WORDS:
            what = f"`{path[-1]}` takes a list of 1 to {MAX_WORDS} words"
            findings.add(path, "bad-parameter", what, "[ps, aux]")
            return None
        words = [_ARGUMENT.compile(one, (*path, n), findings, steps) for n, one in enumerate(data)]
        if words[0] is not None and words[0].names:
            what = "the program must be literal text, so that no event selects it"
            findings.add((*path, 0), "bad-parameter", what, "use values of the event as arguments")
        elif data[0] == "":
            findings.add((*path, 0), "bad-parameter", "the program has no name")
        return words

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the rendered words. A value of the event stays inside its word."""
        return [_ARGUMENT.render(word, event, context) for word in value]

    def schema(self) -> dict[str, Any]:
        """Return the schema of a list of strings."""
        words = {"type": "array", "minItems": 1, "maxItems": MAX_WORDS}
        return {**words, "items": {"type": "string"}}


Command = Annotated[list[str], CommandWords()]


def command_text(command: list[str]) -> str:
    """Return a command for a message: quoted where necessary, and cut."""
    import shlex  # noqa: PLC0415 - check and plan import this module

    text = shlex.join(command)
    text = "".join(letter if letter.isprintable() else "�" for letter in text)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def container_of(pod: Pod, context: StepContext, given: str | None) -> str:
    """Return the name of the container: as given, that of the event, or the default of the pod.

    Raises PermanentError if the pod has no container of the given name.
    """
    names = [one.get("name") for key in _SPECS for one in pod.spec.get(key) or []]
    if given is not None:
        if names and given not in names:
            listed = ", ".join(map(str, names[:10]))
            raise PermanentError(
                f"pod {pod} has no container {given[:100]!r} (its containers: {listed})"
            )
        return given
    found = _event_container(pod, context.event)
    default = (pod.metadata.get("annotations") or {}).get(_DEFAULT_CONTAINER)
    return str(found or (default if default in names else None) or next(iter(names), "app"))


def _event_container(pod: Pod, event: Event) -> str | None:
    """Return the name of the container whose id is in the event, or None."""
    wanted = subject_of(event).container_id
    status = pod.object.get("status") or {}
    for one in (one for key in _STATUSES for one in status.get(key) or []):
        full = str(one.get("containerID") or "").rpartition("//")[2]
        if wanted and same_container(wanted, full):
            return str(one.get("name"))
    return None


@contextlib.contextmanager
def running_command(
    cluster: Cluster, pod: Pod, context: StepContext, container: str, command: list[str]
) -> Iterator[Output]:
    """Run a command in a container; see ``Cluster.execute``. The connection is closed at the end.

    Meanwhile, and for ``AFTER_COMMAND`` seconds, the engine suppresses the events of the container.
    """
    body = {"command": command, "container": container}
    with own_events_suppressed(pod.object, context, container):
        output = cluster.execute(Call("create", "v1", EXEC, pod.namespace, pod.name, body))
        try:
            yield output
        finally:
            output.close()


@contextlib.contextmanager
def own_events_suppressed(pod: Object, context: StepContext, container: str) -> Iterator[None]:
    """Suppress the events of a container in the block and ``AFTER_COMMAND`` seconds after. pod: with status."""
    status = pod.get("status") or {}
    ids = [
        str(one.get("containerID") or "").rpartition("//")[2]
        for one in (one for key in _STATUSES for one in status.get(key) or [])
        if one.get("name") == container
    ]
    for one in filter(None, ids):
        context.announce(one, None)
    try:
        yield
    finally:
        for one in filter(None, ids):
            context.announce(one, AFTER_COMMAND)


class Excerpt(msgspec.Struct):
    """Passes the bytes of an output on, counts them, and keeps an excerpt.

    keep_end: keep the last bytes, otherwise the first. limit: bytes to read; None for all.
    """

    output: Output
    keep_end: bool = False
    limit: int | None = None
    size: int = 0
    cut: bool = False
    _kept: bytearray = msgspec.field(default_factory=bytearray)

    def __iter__(self) -> Iterator[bytes]:
        try:
            for piece in self.output:
                left = len(piece) if self.limit is None else self.limit - self.size
                self.size += min(len(piece), left)
                self._keep(piece[:left])
                yield piece[:left]
                if len(piece) > left:
                    self.cut = True
                    return
        finally:
            self.output.close()

    def read(self) -> None:
        """Read the whole output and keep only the excerpt."""
        for _ in self:
            pass

    def text(self) -> str:
        """Return the excerpt as text. Bytes that are not UTF-8 are replaced."""
        return bytes(self._kept).decode("utf-8", "replace")

    def _keep(self, piece: bytes) -> None:
        if self.keep_end:
            self._kept += piece
            del self._kept[:-EXCERPT]
        else:
            self._kept += piece[: EXCERPT - len(self._kept)]

    def answer(self, context: StepContext) -> dict[str, Any]:
        """Return the excerpt as a part of the step's answer, with what ``--redact`` masks."""
        text = context.redact(self.text())
        return {"output": text, "size": self.size, "cut": self.cut or self.size > EXCERPT}
