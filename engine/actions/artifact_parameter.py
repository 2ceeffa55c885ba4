"""The parameter ``artifact``: where the bytes of a step go."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from engine.actions.parameters import Text
from engine.artifacts.url import BUCKET, FORM, parse_artifact_url
from engine.model.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.actions.registry import StepContext
    from engine.artifacts.api import Artifact, ArtifactRecorder
    from engine.language.findings import Findings
    from engine.language.template import Template
    from engine.language.yaml_source import Path

_LITERAL = re.compile(rf"file:///|(?:s3|gs|az)://{BUCKET}/")
"""The part of the URL that must be literal text."""


def escape(text: str) -> str:
    """Percent-encode a value from an event, so that it stays in one segment of the path."""
    return quote(text, safe="")


def check_artifact(text: str) -> str | None:
    """Return what is wrong with the URL of an artifact, or None."""
    try:
        parse_artifact_url(text)
    except RefusedError as error:
        return f"is not a valid URL of an artifact: {error}"
    return None


class ArtifactUrlText(Text, frozen=True):
    """The URL of an artifact. Scheme and bucket must be literal text, so that no event selects them."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return a Template. A URL of another form is an error."""
        template: Template | None = Text(escape=self.escape).compile(data, path, findings, steps)
        if template is None:
            return None
        fault = None
        if not template.names:
            fault = check_artifact("".join(map(str, template.parts)))
        elif not _LITERAL.match(str(template.parts[0])):
            fault = "must begin with the scheme and the bucket as literal text"
        if fault:
            findings.add(path, "bad-value", f"`{data[:80]}` {fault}", FORM)
        return template


ArtifactParameter = Annotated[str, ArtifactUrlText(check_artifact, escape)]
OptionalArtifact = Annotated[str | None, ArtifactUrlText(check_artifact, escape)]


def store_artifact(
    artifacts: ArtifactRecorder,
    context: StepContext,
    url: str,
    chunks: Iterable[bytes],
    media_type: str = "application/octet-stream",
) -> Artifact | None:
    """Store the bytes of a step. In a preview, return None.

    An attempt replaces only what an earlier attempt of the same step may have stored.
    """
    key = f"artifact {context.step}"
    is_reserved = context.attempt_state.get(key) == url

    def reserve() -> None:
        context.keep({key: url})

    return artifacts.write(
        url, chunks, reserve=None if is_reserved else reserve, media_type=media_type
    )
