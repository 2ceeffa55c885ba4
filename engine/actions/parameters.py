"""The parameter types of actions: checked when playbooks load, rendered for each attempt, described for editors.

The signature of an action names them. Findings, the JSON Schema and the reference are made from them. A value
from an event that the parameter does not allow raises ``RefusedError``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from engine.cluster.kinds import KINDS, kind_named
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
_OBJECT_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_OPERATOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,252}")
SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")

Check = "Callable[[str], str | None]"


class ParameterType(Protocol):
    """A type of parameter."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Compile a value, and add a finding for each error. steps: the names of the earlier steps."""
        ...

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the value for one attempt. Raises RefusedError if the parameter does not allow it."""
        ...

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema (2020-12)."""
        ...


def check_label_value(text: str) -> str | None:
    """Return what is wrong with the value of a label by the rules of Kubernetes, or None."""
    if _LABEL_VALUE.fullmatch(text):
        return None
    return "is not a valid label value (at most 63 letters, digits, -, _ and ., alphanumeric at both ends)"


def check_label_key(text: str) -> str | None:
    """Return what is wrong with the key of a label or annotation, or None."""
    prefix, slash, name = text.rpartition("/")
    if _LABEL_NAME.fullmatch(name) and (not slash or _SUBDOMAIN.fullmatch(prefix)):
        return None
    return "is not a valid key of a label or annotation ([prefix/]name)"


def check_namespace(text: str) -> str | None:
    """Return what is wrong with the name of a namespace (a DNS label), or None."""
    return None if _DNS_LABEL.fullmatch(text) else "is not a valid name of a namespace"


def check_object_name(text: str) -> str | None:
    """Return what is wrong with the name of an object (a DNS subdomain), or None."""
    valid = len(text) <= 253 and _OBJECT_NAME.fullmatch(text)  # noqa: PLR2004 - RFC 1123
    return None if valid else "is not a valid name of an object"


def check_header_value(text: str) -> str | None:
    """Return what is wrong with the value of an HTTP header (RFC 9110), or None."""
    if all(c == "\t" or " " <= c <= "~" for c in text):
        return None
    return "is not a valid header value (visible ASCII on one line)"


class Text(msgspec.Struct, frozen=True):
    """Text with templates.

    check: returns what is wrong with the rendered text, or None. escape: applied to each value from the event.
    """

    check: Callable[[str], str | None] | None = None
    escape: Callable[[str], str] | None = None

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return a Template."""
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
        """Return the rendered text."""
        text = value.render(event, context, self.escape)
        fault = self.check(text) if self.check else None
        if fault:
            raise RefusedError(f"{quote(text)} {fault}")
        return text

    def schema(self) -> dict[str, Any]:
        """Return the schema of a string."""
        return {"type": "string"}


class OperatorName(msgspec.Struct, frozen=True):
    """The name of an operator, as in the file of operator tokens. It has no templates."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return the name."""
        del steps
        if isinstance(data, str) and _OPERATOR.fullmatch(data):
            return data
        findings.add(path, "bad-parameter", f"`{path[-1]}` takes the name of an operator")
        return None

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the name."""
        del event, context
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema of a name."""
        return {"type": "string", "pattern": f"^{_OPERATOR.pattern}$"}


class Name(msgspec.Struct, frozen=True):
    """A name of an object, a kind or a resource, without templates.

    pattern: of the whole name. what, example: for the message of a finding.
    """

    pattern: re.Pattern[str]
    what: str
    example: str

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return the name."""
        del steps
        if isinstance(data, str) and self.pattern.fullmatch(data):
            return data
        findings.add(path, "bad-parameter", f"`{str(data)[:80]}` is not {self.what}", self.example)
        return None

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the name."""
        del event, context
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema of a name."""
        return {"type": "string", "pattern": f"^{self.pattern.pattern}$"}


RESOURCE = Name(_DNS_LABEL, "a resource, in the plural and in lower case", "gateways")
KIND = Name(re.compile(r"[A-Z][A-Za-z0-9]{0,62}"), "a kind", "StatefulSet")
OBJECT_PATTERN = Name(
    re.compile(r"[A-Za-z0-9*?:._/-]{1,317}"),
    "the name of an object, or NAMESPACE/NAME, exact or with * and ?",
    "break-glass",
)


class KindName(msgspec.Struct, frozen=True):
    """A kind of Kubernetes: a name of the table in ``cluster.kinds``, or RESOURCE.VERSION.GROUP."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return the Kind."""
        del steps
        kind = kind_named(data) if isinstance(data, str) else None
        if kind is None:
            what = "a kind, or RESOURCE.VERSION.GROUP of a custom resource"
            hint = nearest(str(data), KINDS) or "certificates.v1.cert-manager.io"
            findings.add(path, "bad-parameter", f"`{str(data)[:80]}` is not {what}", hint)
        return kind

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the Kind."""
        del event, context
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema of a name."""
        return {"type": "string"}


class Choice(msgspec.Struct, frozen=True):
    """One of a few words or constants."""

    words: tuple[Any, ...]

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return the word."""
        del steps
        if any(data == word and type(data) is type(word) for word in self.words):
            return data
        hint = nearest(str(data), map(str, self.words))
        words = ", ".join(yaml_constant(word) for word in self.words)
        findings.add(path, "bad-parameter", f"`{path[-1]}` takes {words}", hint)
        return None

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the word."""
        del event, context
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema of an enumeration."""
        return {"enum": list(self.words)}


class Integer(msgspec.Struct, frozen=True):
    """A whole number from ``least`` to ``most``. With percent also ``0%`` to ``100%``, which stays text."""

    least: int = 0
    most: int = 2**31 - 1
    percent: bool = False

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return the number, or the percentage as text."""
        del steps
        if type(data) is int and self.least <= data <= self.most:
            return data
        found = re.fullmatch(r"([0-9]{1,3})%", data) if isinstance(data, str) else None
        if self.percent and found and int(found[1]) <= 100:  # noqa: PLR2004 - percent
            return data
        most = "" if self.most == 2**31 - 1 else f" to {self.most}"
        what = f"a whole number from {self.least}{most}"
        if self.percent:
            what += ", or a percentage from 0% to 100%"
        findings.add(path, "bad-parameter", f"`{path[-1]}` takes {what}")
        return None

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the number."""
        del event, context
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema of an integer."""
        number = {"type": "integer", "minimum": self.least, "maximum": self.most}
        if not self.percent:
            return number
        return {"anyOf": [number, {"type": "string", "pattern": "^[0-9]{1,3}%$"}]}


class Duration(msgspec.Struct, frozen=True):
    """A duration. The compiled value is in seconds."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return seconds."""
        del steps
        value = duration.seconds(data)
        if value is None:
            findings.add(path, "bad-duration", f"`{path[-1]}` takes a duration", duration.HINT)
        return value

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return seconds."""
        del event, context
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema of a duration."""
        return {"type": "string", "pattern": duration.PATTERN}


class Network(msgspec.Struct, frozen=True):
    """A network or a single IP address."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return the network as text, in its canonical form."""
        del steps
        try:
            return str(network_of(data))
        except OperandError as error:
            findings.add(path, error.code, str(error), error.hint)
            return None

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the network."""
        del event, context
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema of a string."""
        return {"type": "string"}


class Secret(msgspec.Struct, frozen=True):
    """A reference to a secret: ``{fromSecret: NAME}``. A literal value is an error. No finding repeats it."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return a SecretName."""
        del steps
        hint = "{fromSecret: NAME}"
        if not isinstance(data, dict) or set(data) != {"fromSecret"}:
            code = "bad-parameter" if isinstance(data, dict) else "literal-secret"
            findings.add(path, code, f"`{path[-1]}` is a secret: do not write its value here", hint)
            return None
        name = data["fromSecret"]
        if not isinstance(name, str) or not SECRET_NAME.fullmatch(name):
            findings.add(
                (*path, "fromSecret"),
                "bad-parameter",
                "this is not a valid name of a secret",
                "for example slack-url",
            )
            return None
        return SecretName(name)

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the SecretName. The client that sends the value reads it."""
        del event, context
        return value

    def schema(self) -> dict[str, Any]:
        """Return the schema of ``{fromSecret: NAME}``."""
        name = {"type": "string", "pattern": f"^{SECRET_NAME.pattern}$"}
        return {
            "type": "object",
            "properties": {"fromSecret": name},
            "required": ["fromSecret"],
            "additionalProperties": False,
        }


def quote(text: str) -> str:
    """Return a value from an event for use in a message: quoted, escaped and cut to 60 characters."""
    return repr(text if len(text) <= 60 else text[:59] + "…")  # noqa: PLR2004 - a part of a line


def yaml_constant(value: Any) -> str:
    """Return a constant as it is written in YAML."""
    return str(value).lower() if isinstance(value, bool) else str(value)
