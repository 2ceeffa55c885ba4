"""pod.isolate: shut the pod's network with a NetworkPolicy of its own.

Policies only add up: one allows, none denies. So after ours is written, the others that select the pod are
looked at, and an isolation that one of them undoes is not called done. What a policy does not do: open
connections may live on, and without a CNI that enforces policies nothing happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.actions.composite_parameters import ListOf, Record, Ttl
from engine.actions.metadata import lasting
from engine.actions.ownership import digest, marks, must_be_ours
from engine.actions.parameters import Choice, Integer, Network, Text, dns_label
from engine.actions.registry import StepContext, action
from engine.cluster.api import NETWORK_POLICY, POD, Cluster
from engine.cluster.network_policies import find_less_restrictive
from engine.cluster.pods import Pod
from engine.model.calls import Call, ObjectChange
from engine.model.errors import PermanentError, SkippedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.cluster.network_policies import PolicyType
    from engine.model.calls import Object

QUARANTINE = "tiercel.dev/quarantine"
NODE_LOCAL_DNS = "169.254.20.10/32"
"""Where NodeLocal DNSCache listens on every node (its addon's default)."""

_ALLOW = Record(
    {
        "dns": Choice((True, False)),
        "cidrs": ListOf(Network()),
        "namespaces": ListOf(Text(dns_label)),
        "ports": ListOf(Integer(1, 65535)),
    },
    {
        "dns": "DNS stays open when egress is cut: port 53 to kube-dns and NodeLocal DNSCache (true)",
        "cidrs": "networks that stay reachable, in each direction that is cut",
        "namespaces": "namespaces whose pods stay reachable, in each direction that is cut",
        "ports": "narrows cidrs and namespaces to these ports; all ports without",
    },
)


def _check(given: Mapping[str, Any]) -> str | None:
    if given.get("egress", "deny") == "keep" and given.get("ingress", "deny") == "keep":
        return "`egress: keep` and `ingress: keep` leave nothing to isolate"
    allow = given.get("allow")
    if isinstance(allow, dict) and "ports" in allow and not {"cidrs", "namespaces"} & allow.keys():
        return "`ports` narrows `cidrs` and `namespaces`; alone it would open nothing"
    return None


@action(
    "pod.isolate",
    effect="disrupt",
    needs={
        ("get", "pods"),
        ("patch", "pods"),
        ("get", "networkpolicies.networking.k8s.io"),
        ("list", "networkpolicies.networking.k8s.io"),
        ("create", "networkpolicies.networking.k8s.io"),
        ("patch", "networkpolicies.networking.k8s.io"),
        ("delete", "networkpolicies.networking.k8s.io"),
    },
    example={"egress": "deny", "ingress": "keep", "allow": {"cidrs": ["192.0.2.0/24"]}},
    check=_check,
)
def isolate_pod(  # noqa: PLR0913 - the contract's parameters
    pod: Pod,
    cluster: Cluster,
    context: StepContext,
    *,
    egress: Literal["deny", "keep"] = "deny",
    ingress: Literal["deny", "keep"] = "deny",
    allow: Annotated[dict[str, Any] | None, _ALLOW] = None,
    selector: Literal["pod"] = "pod",
    detach: Literal[False] = False,
    ttl: Ttl = None,
) -> str:
    """Cut the pod's network with a NetworkPolicy that selects just this pod, by a quarantine label.

    Open connections may live on, and without a CNI that enforces policies nothing happens. The step fails
    where another policy that selects the pod allows more: policies only add up.

    egress: whether connections from the pod are cut.
    ingress: whether connections to the pod are cut.
    allow: what stays open.
    selector: what the policy selects; the pod.
    detach: whether the pod is taken out of its controller and Services.
    ttl: after which the isolation ends; without one it lasts until `tiercel undo`.
    """
    del selector, detach
    if pod.spec.get("hostNetwork"):
        raise SkippedError(f"pod {pod} uses its host's network, where no policy reaches it")
    cut = {"Egress": egress == "deny", "Ingress": ingress == "deny"}
    both: tuple[PolicyType, ...] = ("Ingress", "Egress")
    directions = [name for name in both if cut[name]]
    name = f"tiercel-{digest(10, context.playbook, context.step, pod.uid)}"
    label = digest(16, pod.uid)
    found = cluster.get(NETWORK_POLICY, name, pod.namespace)
    must_be_ours(found, f"networkpolicy {pod.namespace}/{name}")
    made = ObjectChange(NETWORK_POLICY, pod.namespace, name)
    before = (pod.metadata.get("labels") or {}).get(QUARANTINE)
    path = ("metadata", "labels", QUARANTINE)
    labelled = ObjectChange(POD, pod.namespace, pod.name, pod.uid, path, label, before)
    until = context.add_undo_intent((made, labelled), ttl)
    policy = {
        "apiVersion": NETWORK_POLICY.api_version,
        "kind": NETWORK_POLICY.kind,
        "metadata": {
            "name": name,
            "namespace": pod.namespace,
            **marks(context, until, found),
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}
            ],
        },
        "spec": _spec(label, directions, allow or {}),
    }
    body = {"metadata": {"uid": pod.uid, "labels": {QUARANTINE: label}}}
    cluster.send(Call("patch", POD.api_version, POD.resource, pod.namespace, pod.name, body))
    api, resource = NETWORK_POLICY.api_version, NETWORK_POLICY.resource
    cluster.send(Call("apply", api, resource, pod.namespace, name, policy))
    _check_shut(pod, label, policy, cluster, directions)
    dns = "Egress" in directions and (allow or {}).get("dns", True)
    which = " and ".join(direction.lower() for direction in directions)
    return f"cut {which} of {pod}{lasting(ttl)}{', DNS stays open' if dns else ''}"


def _spec(label: str, directions: list[PolicyType], allow: Mapping[str, Any]) -> Object:
    """The policy's spec: the directions that are cut, and within them what stays open."""
    peers: list[Object] = [{"ipBlock": {"cidr": cidr}} for cidr in allow.get("cidrs", [])]
    peers += [{"namespaceSelector": _named(name)} for name in allow.get("namespaces", [])]
    ports = [
        {"protocol": protocol, "port": port}
        for port in allow.get("ports", [])
        for protocol in ("TCP", "UDP")
    ]
    narrowed = {"ports": ports} if ports else {}
    spec: Object = {"podSelector": {"matchLabels": {QUARANTINE: label}}, "policyTypes": directions}
    if "Ingress" in directions:
        spec["ingress"] = [{"from": peers, **narrowed}] if peers else []
    if "Egress" in directions:
        rules: list[Object] = [{"to": peers, **narrowed}] if peers else []
        if allow.get("dns", True):
            rules.insert(0, _dns())
        spec["egress"] = rules
    return spec


def _dns() -> Object:
    resolver = {
        "namespaceSelector": _named("kube-system"),
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    return {
        "to": [resolver, {"ipBlock": {"cidr": NODE_LOCAL_DNS}}],
        "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
    }


def _named(namespace: str) -> Object:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


def _check_shut(
    pod: Pod, label: str, policy: Object, cluster: Cluster, directions: list[PolicyType]
) -> None:
    """Raises PermanentError where another policy allows the pod what ours does not."""
    labels = {**(pod.metadata.get("labels") or {}), QUARANTINE: label}
    labelled = {**pod.object, "metadata": {**pod.metadata, "labels": labels}}
    others = cluster.list(NETWORK_POLICY, pod.namespace)
    still = find_less_restrictive(policy, others, labelled, directions)
    if still:
        raise PermanentError(f"still open through {still} (detach: true takes the pod out of it)")
