"""Talon's actionners, each with the action of ours that does what it does.

Parameters, defaults and whether the rule goes on afterwards are those of Talon 0.3 (its actionners' sources
and docs.falco-talon.org). An action that this version does not have yet is shown in the playbook as a
comment, so the table names all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.talon.import_report import NotCarriedError
from engine.talon.parameters import literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.talon.parameters import Parameters

_DELETABLE = (
    "Namespace", "ConfigMap", "Secret", "Deployment", "DaemonSet", "Service", "ServiceAccount",
    "ReplicaSet", "StatefulSet", "Role", "ClusterRole",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Actionner:
    """What becomes of an actionner.

    action: ours. carry: the step's parameters; raises LostError. continues: whether Talon goes on after it
    where nothing says so.
    """

    action: str
    carry: Callable[[Parameters], dict[str, Any]]
    continues: bool = True


def _terminate(given: Parameters) -> dict[str, Any]:
    # without the parameter Talon sends 0: at once
    step: dict[str, Any] = {"grace": given.number("grace_period_seconds", 0)}
    skipped = _ignored(given)
    if skipped:
        step["skipKinds"] = skipped
    if not given.flag("ignore_standalone_pods"):
        step["onlyIfOwned"] = False
    least = given.replicas("min_healthy_replicas")
    if least is not None:
        step["minReady"] = least
        what = "minReady counts the pods that stay, of any controller; Talon counts this one, too"
        if isinstance(least, str):
            what += ", and takes the percentage for a number of pods"
        given.differs("min_healthy_replicas", what)
    return step


def _ignored(given: Parameters) -> list[str]:
    kinds = {"ignore_daemonsets": "DaemonSet", "ignore_statefulsets": "StatefulSet"}
    return [kind for name, kind in kinds.items() if given.flag(name)]


def _labels(given: Parameters) -> dict[str, Any]:
    return {"labels": given.pairs("labels"), **_level(given)}


def _annotations(given: Parameters) -> dict[str, Any]:
    return {"annotations": given.pairs("annotations"), **_level(given)}


def _level(given: Parameters) -> dict[str, Any]:
    level = given.text("level", "pod")
    if level not in ("pod", "node"):
        given.differs("level", f"Talon takes the level `{level}` for pod, and so does this")
    return {"on": "node"} if level == "node" else {}


def _isolate(given: Parameters) -> dict[str, Any]:
    cidrs = given.networks("allow_cidr")
    old = given.networks("allow")
    if old:
        given.differs(
            "allow", "Talon calls it allow_cidr since 0.1 and ignores `allow`; carried over"
        )
    given.differs(
        "",
        "Talon's policy selects all pods of the owner, and stays; pod.isolate selects this pod alone",
        "a pod that takes its place is not isolated",
    )
    namespaces = given.texts("allow_namespaces")
    allow: dict[str, Any] = {"dns": False}
    if cidrs or old:
        allow["cidrs"] = list(dict.fromkeys([*cidrs, *old]))
    if namespaces:
        allow["namespaces"] = [literal(name) for name in namespaces]
    return {"egress": "deny", "ingress": "keep", "allow": allow}


def _block(provider: str) -> Callable[[Parameters], dict[str, Any]]:
    def carry(given: Parameters) -> dict[str, Any]:
        if given.texts("allow_namespaces") or given.networks("allow_cidr") not in (
            [],
            ["0.0.0.0/0"],
        ):
            raise NotCarriedError(
                "it allows some networks or namespaces only, and the action for it cuts one "
                "destination and leaves the rest",
                "pod.isolate with `allow`",
            )
        if given.get("order") is not None:
            given.differs("order", "`order` has no counterpart; left out")
        return {"provider": provider}

    return carry


def _shell(command: str) -> Callable[[Parameters], dict[str, Any]]:
    def carry(given: Parameters) -> dict[str, Any]:
        if command == "script" and given.get("file") is not None:
            raise NotCarriedError("the script is in a file of Talon's container", "write it out")
        text = given.text(command)
        if "$" in text:
            raise NotCarriedError(
                f"`{command}` has a `$`: Talon puts what the event says into the shell's words, "
                "which whoever writes the event may choose",
                "pod.exec takes arguments one by one: command: [cat, %fd.name]",
                uses="pod.exec",
            )
        return {"command": [literal(given.text("shell", "/bin/sh")), "-c", literal(text)]}

    return carry


def _logs(given: Parameters) -> dict[str, Any]:
    return {"lines": given.number("tail_lines", 20), **_artifact(given)}


def _download(given: Parameters) -> dict[str, Any]:
    return {"command": ["cat", literal(given.text("file"))], **_artifact(given)}


def _artifact(given: Parameters) -> dict[str, Any]:
    artifact = given.artifact()
    return {"artifact": literal(artifact)} if artifact else {}


def _drain(given: Parameters) -> dict[str, Any]:
    step: dict[str, Any] = {}
    skipped = _ignored(given)
    if skipped:
        step["skipKinds"] = skipped
    least = given.replicas("min_healthy_replicas")
    if least is not None:
        step["minReady"] = least
    wait = given.number("max_wait_period", 0)
    if wait:
        step["timeout"] = f"{wait}s"
    for name in ("ignore_errors", "wait_period_excluded_namespaces"):
        if given.get(name):
            given.differs(name, f"`{name}` has no counterpart; left out")
    return step


def _lost(what: str, hint: str, uses: str) -> Callable[[Parameters], dict[str, Any]]:
    def carry(_: Parameters) -> dict[str, Any]:
        raise NotCarriedError(what, hint, uses)

    return carry


_IMAGE = _lost(
    "it runs in an image of Talon's choice",
    "pod.debug with `image` and `command`",
    "pod.debug",
)
_FUNCTION = _lost(
    "no action calls it with a cloud's credentials",
    "http.request to a URL of the function's own",
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
        "resource.delete", lambda _: {"kinds": list(_DELETABLE)}, continues=False
    ),
    "kubernetes:cordon": Actionner("node.cordon", lambda _: {}),
    "kubernetes:drain": Actionner("node.drain", _drain),
    "calico:networkpolicy": Actionner("pod.block", _block("calico")),
    "cilium:networkpolicy": Actionner("pod.block", _block("cilium")),
    "aws:lambda": Actionner("http.request", _FUNCTION),
    "gcp:function": Actionner("http.request", _FUNCTION),
}

FORMER = {"kubernetes:labelize": "kubernetes:label"}
"""Names that actionners had before Talon 0.1."""
