"""The kinds of an action's parameters: checked at load, rendered for each attempt, described for editors.

An action's signature names them; from them come the findings, the JSON Schema and the reference. A value
that an event made and that the parameter does not allow is a ``RefusedError``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from engine.language import duration
from engine.language.findings import nearest
from engine.language.operators import OperandError, network_of
from engine.language.template import Template, TemplateError, compile_template
from engine.model.calls import SecretName
from engine.model.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.language.findings import Findings
    from engine.language.template import TemplateContext
    from engine.language.yaml_source import Path
    from engine.model.event import Event

_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

Check = "Callable[[str], str | None]"


class ParameterType(Protocol):
    """A kind of parameter."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """The compiled value; what is wrong is reported."""
        ...

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """The value for one attempt. Raises RefusedError."""
        ...

    def schema(self) -> dict[str, Any]:
        """Its JSON Schema (2020-12)."""
        ...


def label_value(text: str) -> str | None:
    """What is wrong with a label's value, by Kubernetes' rules; None if nothing is."""
    if _LABEL_VALUE.fullmatch(text):
        return None
    return "is no label value (at most 63 letters, digits, -, _ and ., alphanumeric at both ends)"


def label_key(text: str) -> str | None:
    """What is wrong with the key of a label or annotation; None if nothing is."""
    prefix, slash, name = text.rpartition("/")
    if _LABEL_NAME.fullmatch(name) and (not slash or _SUBDOMAIN.fullmatch(prefix)):
        return None
    return "is no label or annotation key ([prefix/]name)"


def dns_label(text: str) -> str | None:
    """What is wrong with a namespace's name; None if nothing is."""
    return None if _DNS_LABEL.fullmatch(text) else "is no namespace"


def header_value(text: str) -> str | None:
    """What is wrong with the value of an HTTP header (RFC 9110); None if nothing is."""
    if all(c == "\t" or " " <= c <= "~" for c in text):
        return None
    return "is no header value (visible ASCII on one line)"


@dataclass(frozen=True, slots=True)
class Text:
    """Text with templates. check: what is wrong with the text they become. escape: for what events say."""

    check: Callable[[str], str | None] | None = None
    escape: Callable[[str], str] | None = None

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """A Template."""
        if not isinstance(data, str):
            findings.add(path, "bad-parameter", f"`{path[-1]}` takes text", "quote it")
            return None
        try:
            template = compile_template(data, steps)
        except TemplateError as error:
            findings.add(path, "bad-template", str(error), "%% is a percent sign")
            return None
        fault = self.check and not template.names and self.check("".join(map(str, template.parts)))
        if fault:
            findings.add(path, "bad-parameter", f"`{data[:80]}` {fault}")
        return template

    def render(self, value: Template, event: Event, context: TemplateContext) -> str:
        """The text."""
        text = value.render(event, context, self.escape)
        fault = self.check(text) if self.check else None
        if fault:
            raise RefusedError(f"{shown(text)} {fault}")
        return text

    def schema(self) -> dict[str, Any]:
        """Any string."""
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words (or constants)."""

    words: tuple[Any, ...]

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """The word."""
        del steps
        if any(data == word and type(data) is type(word) for word in self.words):
            return data
        hint = nearest(str(data), map(str, self.words))
        words = ", ".join(shown_constant(word) for word in self.words)
        findings.add(path, "bad-parameter", f"`{path[-1]}` takes {words}", hint)
        return None

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """The word."""
        del event, context
        return value

    def schema(self) -> dict[str, Any]:
        """An enumeration."""
        return {"enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number from least to most; with percent, also ``N%`` of 0 to 100, kept as text."""

    least: int = 0
    most: int = 2**31 - 1
    percent: bool = False

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """The number, or the percentage as text."""
        del steps
        if type(data) is int and self.least <= data <= self.most:
            return data
        found = re.fullmatch(r"([0-9]{1,3})%", data) if isinstance(data, str) else None
        if self.percent and found and int(found[1]) <= 100:  # noqa: PLR2004 - per cent
            return data
        what = "a whole number or a percentage" if self.percent else "a whole number"
        findings.add(path, "bad-parameter", f"`{path[-1]}` takes {what} from {self.least}")
        return None

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """The number."""
        del event, context
        return value

    def schema(self) -> dict[str, Any]:
        """An integer."""
        number = {"type": "integer", "minimum": self.least, "maximum": self.most}
        if not self.percent:
            return number
        return {"anyOf": [number, {"type": "string", "pattern": "^[0-9]{1,3}%$"}]}


@dataclass(frozen=True, slots=True)
class Duration:
    """A duration, in seconds once compiled."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Seconds."""
        del steps
        value = duration.seconds(data)
        if value is None:
            findings.add(path, "bad-duration", f"`{path[-1]}` takes a duration", duration.HINT)
        return value

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Seconds."""
        del event, context
        return value

    def schema(self) -> dict[str, Any]:
        """A duration's pattern."""
        return {"type": "string", "pattern": duration.PATTERN}


@dataclass(frozen=True, slots=True)
class Network:
    """A network or a single address, as text."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """The network in its canonical form."""
        del steps
        try:
            return str(network_of(data))
        except OperandError as error:
            findings.add(path, error.code, str(error), error.hint)
            return None

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """The network."""
        del event, context
        return value

    def schema(self) -> dict[str, Any]:
        """A string."""
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class Secret:
    """``{fromSecret: NAME}``; what is written out is refused and never repeated in the finding."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """A SecretName."""
        del steps
        hint = "{fromSecret: NAME}"
        if not isinstance(data, dict) or set(data) != {"fromSecret"}:
            code = "bad-parameter" if isinstance(data, dict) else "literal-secret"
            findings.add(path, code, f"`{path[-1]}` is a secret, so it is not written out", hint)
            return None
        name = data["fromSecret"]
        if not isinstance(name, str) or not SECRET_NAME.fullmatch(name):
            findings.add(
                (*path, "fromSecret"), "bad-parameter", "no name of a secret", "like slack-url"
            )
            return None
        return SecretName(name)

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """The SecretName; its value is for the port that sends it."""
        del event, context
        return value

    def schema(self) -> dict[str, Any]:
        """The one shape."""
        name = {"type": "string", "pattern": f"^{SECRET_NAME.pattern}$"}
        return {
            "type": "object",
            "properties": {"fromSecret": name},
            "required": ["fromSecret"],
            "additionalProperties": False,
        }


def shown(text: str) -> str:
    """What an event made, fit for a sentence: quoted, escaped, cut."""
    return repr(text if len(text) <= 60 else text[:59] + "…")  # noqa: PLR2004 - part of a line


def shown_constant(value: Any) -> str:
    """A constant as YAML has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
