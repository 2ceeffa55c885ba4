"""Talon's actionners, each with the equivalent action and the conversion of its parameters.

The parameters, defaults, and whether the rule continues after the actionner are those of Talon 0.3 (the sources
of its actionners and docs.falco-talon.org). The table contains all actionners. If this version does not have
the action, the playbook contains the step as a comment.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.language.findings import nearest
from engine.talon.import_report import NotConvertibleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.model.errors import Location
    from engine.talon.import_report import ImportReport
    from engine.talon.rules_file import Action

_BUCKETS = {"aws:s3": "s3", "minio:s3": "s3", "gcp:gcs": "gs"}
"""Talon's outputs that are object stores -> URL scheme of ``artifact``."""
_DELETABLE_KINDS = (
    "Namespace", "ConfigMap", "Secret", "Deployment", "DaemonSet", "Service", "ServiceAccount",
    "ReplicaSet", "StatefulSet", "Role", "ClusterRole",
)  # fmt: skip


class Parameters:
    """The parameters of a Talon action. Each reader raises NotConvertibleError if the type is wrong."""

    def __init__(self, action: Action, report: ImportReport) -> None:
        self._action = action
        self._report = report
        self._read: set[str] = set()

    def _location(self, name: str) -> Location:
        return self._action.locations.get(name, self._action.where)

    def warn(self, name: str, what: str, hint: str | None = None) -> None:
        """Report that a parameter works differently. If the name is not set, the location is the action's."""
        self._report.warning(self._location(name), what, hint)

    def get(self, name: str) -> Any:
        """Return the value without a check, or None."""
        self._read.add(name)
        return self._action.parameters.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text. It is required if there is no default."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value:
            raise NotConvertibleError(f"`{name}` takes text")
        return value

    def number(self, name: str, default: int) -> int:
        """Return an integer from 0."""
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise NotConvertibleError(f"`{name}` takes a whole number from 0")
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean; default: False."""
        value = self.get(name)
        if value in (None, "false"):
            return False
        if value is True or value == "true":
            return True
        if value is False:
            return False
        raise NotConvertibleError(f"`{name}` takes true or false")

    def texts(self, name: str) -> list[str]:
        """Return a list of texts without duplicates; default: empty."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise NotConvertibleError(f"`{name}` takes a list of texts")
        return list(dict.fromkeys(value))

    def networks(self, name: str) -> list[str]:
        """Return a list of CIDRs with the host bits cleared, as Go's ParseCIDR does."""
        found = []
        for one in self.texts(name):
            try:
                if "/" not in one:
                    raise ValueError
                found.append(str(ipaddress.ip_network(one, strict=False)))
            except ValueError:
                what = f"`{one[:80]}` in `{name}` is not a CIDR"
                raise NotConvertibleError(what, "10.0.0.0/8") from None
        return list(dict.fromkeys(found))

    def pairs(self, name: str) -> dict[str, str | None]:
        """Return a mapping of key -> text. The text is None if the value is empty, which removes the key."""
        value = self.get(name)
        if not isinstance(value, dict) or not value:
            raise NotConvertibleError(f"`{name}` takes a mapping with at least one key")
        return {key: _pair_value(name, one) for key, one in value.items()}

    def replicas(self, name: str) -> int | str | None:
        """Return a number, a percentage such as ``33%``, or None if it is not set."""
        value = self.get(name)
        if value is None:
            return None
        found = re.fullmatch(r"([0-9]{1,9})(%?)", str(value))
        if not found or isinstance(value, bool):
            raise NotConvertibleError(f"`{name}` takes a number or a percentage")
        return f"{int(found[1])}%" if found[2] else int(found[1])

    def artifact(self) -> str | None:
        """Return the URL for Talon's ``output``, or None if it is not set."""
        output = self._action.output
        if output is None:
            return None
        parameters = output.get("parameters")
        parameters = parameters if isinstance(parameters, dict) else {}
        target = output.get("target")
        if target == "local:file":
            return f"file://{parameters.get('destination', '')}"
        if target not in _BUCKETS:
            raise NotConvertibleError(f"`{target}` is not an output of Talon")
        prefix = str(parameters.get("prefix", "")).lstrip("/")
        return f"{_BUCKETS[target]}://{parameters.get('bucket', '')}/{prefix}"

    def report_unknown(self) -> None:
        """Report the parameters that the conversion did not read. Talon ignores them."""
        for name in self._action.parameters.keys() - self._read:
            actionner = self._action.actionner
            subject = actionner.text if actionner else "the action"
            what = f"{subject} has no parameter `{name}`, so Talon ignores it"
            self._report.warning(self._location(name), what, nearest(_snake_case(name), self._read))


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower()


def _pair_value(name: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return escape_template(str(value))
    raise NotConvertibleError(f"`{name}` takes texts as values")


def escape_template(text: str) -> str:
    """Return a text for ``with:`` in which no percent sign starts a template."""
    return text.replace("%", "%%")


@dataclass(frozen=True, slots=True)
class Actionner:
    """An actionner of Talon.

    action: the equivalent action.
    convert: returns the parameters of the step; raises NotConvertibleError.
    continues: whether Talon continues the rule after it by default.
    """

    action: str
    convert: Callable[[Parameters], dict[str, Any]]
    continues: bool = True


def _terminate(given: Parameters) -> dict[str, Any]:
    # Talon's default is 0: delete immediately
    step: dict[str, Any] = {"grace": given.number("grace_period_seconds", 0)}
    skipped = _skipped_kinds(given)
    if skipped:
        step["skipKinds"] = skipped
    if not given.flag("ignore_standalone_pods"):
        step["onlyIfOwned"] = False
    minimum = given.replicas("min_healthy_replicas")
    if minimum is not None:
        step["minReady"] = minimum
        what = "minReady counts the pods that stay, of any controller; Talon also counts this pod"
        if isinstance(minimum, str):
            what += ", and treats the percentage as a number of pods"
        given.warn("min_healthy_replicas", what)
    return step


def _skipped_kinds(given: Parameters) -> list[str]:
    kinds = {"ignore_daemonsets": "DaemonSet", "ignore_statefulsets": "StatefulSet"}
    return [kind for name, kind in kinds.items() if given.flag(name)]


def _labels(given: Parameters) -> dict[str, Any]:
    return {"labels": given.pairs("labels"), **_level(given)}


def _annotations(given: Parameters) -> dict[str, Any]:
    return {"annotations": given.pairs("annotations"), **_level(given)}


def _level(given: Parameters) -> dict[str, Any]:
    level = given.text("level", "pod")
    if level not in ("pod", "node"):
        given.warn("level", f"Talon treats the level `{level}` as pod; Tiercel does the same")
    return {"on": "node"} if level == "node" else {}


def _isolate(given: Parameters) -> dict[str, Any]:
    cidrs = given.networks("allow_cidr")
    former = given.networks("allow")
    if former:
        what = "Talon ignores `allow` since 0.1, which renamed it to allow_cidr; it is converted"
        given.warn("allow", what)
    given.warn(
        "",
        "Talon's policy also selects a pod without an owner, and it stays; selector: owner skips "
        "such a pod, and its policy ends with the owner",
        "remove `selector: owner` to isolate only the pod of the event",
    )
    namespaces = given.texts("allow_namespaces")
    allow: dict[str, Any] = {"dns": False}
    if cidrs or former:
        allow["cidrs"] = list(dict.fromkeys([*cidrs, *former]))
    if namespaces:
        allow["namespaces"] = [escape_template(name) for name in namespaces]
    return {"egress": "deny", "ingress": "keep", "allow": allow, "selector": "owner"}


def _block(provider: str) -> Callable[[Parameters], dict[str, Any]]:
    def convert(given: Parameters) -> dict[str, Any]:
        networks = given.networks("allow_cidr")
        if given.texts("allow_namespaces") or networks not in ([], ["0.0.0.0/0"]):
            raise NotConvertibleError(
                "it allows only some networks or namespaces, but pod.block denies one destination "
                "and allows all others",
                "use pod.isolate with `allow`",
            )
        if given.get("order") is not None:
            given.warn("order", "`order` has no equivalent; not converted")
        return {"provider": provider}

    return convert


def _shell(parameter: str) -> Callable[[Parameters], dict[str, Any]]:
    def convert(given: Parameters) -> dict[str, Any]:
        if parameter == "script" and given.get("file") is not None:
            what = "the script is a file in Talon's container"
            raise NotConvertibleError(what, "copy the text of the script into `script`")
        text = given.text(parameter)
        if "$" in text:
            raise NotConvertibleError(
                f"`{parameter}` contains a `$`: Talon inserts values of the event into the shell "
                "command, so the event can inject commands",
                "pod.exec takes arguments one by one: command: [cat, %fd.name]",
                uses="pod.exec",
            )
        shell = given.text("shell", "/bin/sh")
        return {"command": [escape_template(shell), "-c", escape_template(text)]}

    return convert


def _logs(given: Parameters) -> dict[str, Any]:
    return {"lines": given.number("tail_lines", 20), **_artifact(given)}


def _download(given: Parameters) -> dict[str, Any]:
    return {"command": ["cat", escape_template(given.text("file"))], **_artifact(given)}


def _artifact(given: Parameters) -> dict[str, Any]:
    artifact = given.artifact()
    return {"artifact": escape_template(artifact)} if artifact else {}


def _drain(given: Parameters) -> dict[str, Any]:
    step: dict[str, Any] = {}
    skipped = _skipped_kinds(given)
    if skipped:
        step["skipKinds"] = skipped
    minimum = given.replicas("min_healthy_replicas")
    if minimum is not None:
        step["minReady"] = minimum
    wait = given.number("max_wait_period", 0)
    if wait:
        step["timeout"] = f"{wait}s"
    for name in ("ignore_errors", "wait_period_excluded_namespaces"):
        if given.get(name):
            given.warn(name, f"`{name}` has no equivalent; not converted")
    return step


def _not_convertible(what: str, hint: str, uses: str) -> Callable[[Parameters], dict[str, Any]]:
    def convert(_: Parameters) -> dict[str, Any]:
        raise NotConvertibleError(what, hint, uses)

    return convert


_IMAGE = _not_convertible(
    "Talon runs it in an image that the rule does not name",
    "use pod.debug with `image` and `command`",
    "pod.debug",
)
_FUNCTION = _not_convertible(
    "the rule does not contain the URL of the function",
    "use http.request with `url` and `auth`",
    "http.request",
)

ACTIONNERS: dict[str, Actionner] = {
    "kubernetes:terminate": Actionner("pod.delete", _terminate, continues=False),
    "kubernetes:label": Actionner("pod.label", _labels),
    "kubernetes:annotation": Actionner("pod.annotate", _annotations),
    "kubernetes:networkpolicy": Actionner("pod.isolate", _isolate),
    "kubernetes:exec": Actionner("pod.exec", _shell("command")),
    "kubernetes:script": Actionner("pod.exec", _shell("script")),
    "kubernetes:log": Actionner("pod.logs", _logs),
    "kubernetes:download": Actionner("pod.exec", _download),
    "kubernetes:tcpdump": Actionner("pod.debug", _IMAGE),
    "kubernetes:sysdig": Actionner("pod.debug", _IMAGE),
    "kubernetes:delete": Actionner(
        "resource.delete", lambda _: {"kinds": list(_DELETABLE_KINDS)}, continues=False
    ),
    "kubernetes:cordon": Actionner("node.cordon", lambda _: {}),
    "kubernetes:drain": Actionner("node.drain", _drain),
    "calico:networkpolicy": Actionner("pod.block", _block("calico")),
    "cilium:networkpolicy": Actionner("pod.block", _block("cilium")),
    "aws:lambda": Actionner("http.request", _FUNCTION),
    "gcp:function": Actionner("http.request", _FUNCTION),
}

FORMER_NAMES = {"kubernetes:labelize": "kubernetes:label"}
"""Names that actionners had before Talon 0.1."""
