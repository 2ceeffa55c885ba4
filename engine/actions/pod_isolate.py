"""pod.isolate: cut the network of the pod with a NetworkPolicy for it.

Policies are additive: each allows connections, and none denies them. So the step also checks the other
policies that select the pod, and fails if one of them allows more. A policy may not close open connections,
and without a CNI that enforces policies it has no effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.actions.composite_parameters import ListOf, Record, Ttl
from engine.actions.managed_objects import ownership_metadata, require_managed, short_digest
from engine.actions.metadata import ttl_text
from engine.actions.parameters import Choice, Integer, Network, Text, check_namespace
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
"""The address of NodeLocal DNSCache on every node (the default of the addon)."""

_ALLOW = Record(
    {
        "dns": Choice((True, False)),
        "cidrs": ListOf(Network()),
        "namespaces": ListOf(Text(check_namespace)),
        "ports": ListOf(Integer(1, 65535)),
    },
    {
        "dns": "allow DNS: port 53 to kube-dns and NodeLocal DNSCache (true)",
        "cidrs": "allow these networks, in each direction that is cut",
        "namespaces": "allow the pods of these namespaces, in each direction that is cut",
        "ports": "limit cidrs and namespaces to these ports (all ports)",
    },
)


def _check(given: Mapping[str, Any]) -> str | None:
    if given.get("egress", "deny") == "keep" and given.get("ingress", "deny") == "keep":
        return "`egress: keep` and `ingress: keep` together cut nothing"
    allow = given.get("allow")
    if isinstance(allow, dict) and "ports" in allow and not {"cidrs", "namespaces"} & allow.keys():
        return "`ports` limits `cidrs` and `namespaces`; without one of them it has no effect"
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
def isolate_pod(  # noqa: PLR0913 - each is a parameter of the action
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
    """Cut the network of the pod with a NetworkPolicy that selects only this pod by a quarantine label.

    Open connections may continue. Without a CNI that enforces policies, the policy has no effect. Policies are
    additive: the step fails if another policy that selects the pod allows more.

    egress: whether to cut connections from the pod.
    ingress: whether to cut connections to the pod.
    allow: exceptions.
    selector: what the policy selects: the pod.
    detach: whether to remove the pod from its controller and Services.
    ttl: when the isolation ends. Without it, the isolation lasts until `tiercel undo`.
    """
    del selector, detach
    if pod.spec.get("hostNetwork"):
        raise SkippedError(f"pod {pod} uses the network of its host, where policies have no effect")
    is_cut = {"Egress": egress == "deny", "Ingress": ingress == "deny"}
    both: tuple[PolicyType, ...] = ("Ingress", "Egress")
    directions = [name for name in both if is_cut[name]]
    name = f"tiercel-{short_digest(10, context.playbook, context.step, pod.uid)}"
    label = short_digest(16, pod.uid)
    found = cluster.get(NETWORK_POLICY, name, pod.namespace)
    require_managed(found, f"networkpolicy {pod.namespace}/{name}")
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
            **ownership_metadata(context, until, found),
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
    _check_other_policies(pod, label, policy, cluster, directions)
    dns = "Egress" in directions and (allow or {}).get("dns", True)
    which = " and ".join(direction.lower() for direction in directions)
    return f"cut {which} of {pod}{ttl_text(ttl)}{', DNS stays open' if dns else ''}"


def _spec(label: str, directions: list[PolicyType], allow: Mapping[str, Any]) -> Object:
    """Return the spec of the policy: the directions that are cut, with their exceptions."""
    peers: list[Object] = [{"ipBlock": {"cidr": cidr}} for cidr in allow.get("cidrs", [])]
    peers += [{"namespaceSelector": _named(name)} for name in allow.get("namespaces", [])]
    ports = [
        {"protocol": protocol, "port": port}
        for port in allow.get("ports", [])
        for protocol in ("TCP", "UDP")
    ]
    limited = {"ports": ports} if ports else {}
    spec: Object = {"podSelector": {"matchLabels": {QUARANTINE: label}}, "policyTypes": directions}
    if "Ingress" in directions:
        spec["ingress"] = [{"from": peers, **limited}] if peers else []
    if "Egress" in directions:
        rules: list[Object] = [{"to": peers, **limited}] if peers else []
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


def _check_other_policies(
    pod: Pod, label: str, policy: Object, cluster: Cluster, directions: list[PolicyType]
) -> None:
    """Raise PermanentError if another policy allows the pod more than ours."""
    labels = {**(pod.metadata.get("labels") or {}), QUARANTINE: label}
    labelled = {**pod.object, "metadata": {**pod.metadata, "labels": labels}}
    others = cluster.list(NETWORK_POLICY, pod.namespace)
    still = find_less_restrictive(policy, others, labelled, directions)
    if still:
        raise PermanentError(f"still open through {still} (detach: true takes the pod out of it)")
