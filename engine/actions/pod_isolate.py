"""pod.isolate: cut the network of the pod with a policy for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.actions.composite_parameters import ChoiceOr, ListOf, MapOf, Record, Ttl
from engine.actions.detach import DETACH_RIGHTS, detached
from engine.actions.managed_objects import RUN, is_managed
from engine.actions.metadata import ttl_text
from engine.actions.owners import OWNER_RESOURCES, OWNERS
from engine.actions.parameters import (
    Choice,
    Integer,
    Network,
    Text,
    check_label_key,
    check_label_value,
    check_namespace,
)
from engine.actions.quarantine import (
    LIST_POLICIES,
    Subject,
    check_network,
    find_place,
    labelled_pod,
    policy_rights,
    provider_text,
    write_policy,
)
from engine.actions.registry import ActionResult, StepContext, action
from engine.cluster.api import NETWORK_POLICY, Cluster
from engine.cluster.label_selectors import as_object, matches, parse_selector
from engine.cluster.network_policies import find_less_restrictive
from engine.cluster.pods import Pod
from engine.cluster.policy_providers.cut import Exceptions, Isolation, Pods
from engine.cluster.policy_providers.registry import providers_of
from engine.model.errors import PermanentError, RefusedError, SkippedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.actions.registry import Right
    from engine.cluster.network_policies import PolicyType
    from engine.model.calls import Object

_ALLOW = Record(
    {
        "dns": Choice((True, False)),
        "cidrs": ListOf(Network()),
        "namespaces": ListOf(Text(check_namespace)),
        "ports": ListOf(Integer(1, 65535)),
    },
    {
        "dns": "allow DNS: port 53 to kube-dns and NodeLocal DNSCache; default true",
        "cidrs": "allow these networks, in each direction that is cut",
        "namespaces": "allow the pods of these namespaces, in each direction that is cut",
        "ports": "limit cidrs and namespaces to these ports; default: all ports",
    },
)
_SHOWN = 5
"""Labels that the message names."""
_SELECTOR = ChoiceOr(
    ("pod", "owner"),
    Record(
        {"matchLabels": MapOf(Text(check_label_value), check_label_key)},
        {"matchLabels": "the labels of the pods; the event's pod must have them"},
    ),
)


def _check(given: Mapping[str, Any]) -> str | None:
    if given.get("egress", "deny") == "keep" and given.get("ingress", "deny") == "keep":
        return "`egress: keep` and `ingress: keep` together cut nothing"
    allow, selector = given.get("allow"), given.get("selector", "pod")
    if isinstance(allow, dict) and "ports" in allow and not {"cidrs", "namespaces"} & allow.keys():
        return "`ports` limits `cidrs` and `namespaces`; without one of them it has no effect"
    if selector == {}:
        return "`selector` needs `matchLabels`: an empty selector would select all pods"
    if given.get("detach") is True and selector != "pod":
        return "`detach` removes labels of one pod, so it needs `selector: pod`"
    return None


def _needs(parameters: Mapping[str, Any]) -> frozenset[Right]:
    provider, selector = parameters.get("provider", "kubernetes"), parameters.get("selector", "pod")
    needed = policy_rights(provider) | {("get", "pods")}
    if any(not one.denies for one in providers_of(provider)):
        needed |= {LIST_POLICIES}
    if selector == "pod":
        needed |= {("patch", "pods")}
    elif selector == "owner":
        needed |= {("get", resource) for resource in OWNER_RESOURCES}
    return needed | DETACH_RIGHTS if parameters.get("detach") else needed


@action(
    "pod.isolate",
    effect="disrupt",
    needs=_needs,
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
    selector: Annotated[str | dict[str, Any], _SELECTOR] = "pod",
    detach: bool = False,
    provider: Literal["kubernetes", "cluster", "cilium", "calico", "auto"] = "kubernetes",
    ttl: Ttl = None,
) -> ActionResult:
    """Cut the network of the pod, or of all pods that `selector` selects, with a policy.

    By default, the policy selects only the pod, by a quarantine label. A pod that uses the network of its host
    is skipped.

    Open connections may continue. Without a CNI that enforces policies, a policy has no effect, and Tiercel
    cannot detect this. NetworkPolicies are additive: with `provider: kubernetes`, the step fails if another
    policy that selects the pod allows more. The other providers deny, and no NetworkPolicy opens what they
    cut.

    egress: whether to cut connections from the pod.
    ingress: whether to cut connections to the pod.
    allow: exceptions.
    selector: what the policy selects: the pod; or all pods of its controller (`owner`), also those that
        replace it; or all pods with these labels. With labels, only the ttl or `tiercel undo` ends it.
    detach: whether to remove the labels by which the pod's controller, Services and other policies select the
        pod. A new pod replaces it. The step is refused for a pod of a StatefulSet or a DaemonSet.
    provider: the kind of the policy. `auto` takes the first of cluster, cilium and calico that the API server
        serves, otherwise kubernetes. A kind that is served is not necessarily enforced.
    ttl: when the isolation ends. Without it, the isolation lasts until `tiercel undo`.
    """
    check_network(pod)
    cut: dict[PolicyType, str] = {"Ingress": ingress, "Egress": egress}
    directions = tuple(name for name, what in cut.items() if what == "deny")
    place = find_place(pod, cluster, context, provider)
    subject = _subject(pod, cluster, selector)
    if detach:
        subject = detached(pod, cluster, subject)
    given = allow or {}
    exceptions = Exceptions(
        given.get("dns", True),
        *(tuple(given.get(key, ())) for key in ("cidrs", "namespaces", "ports")),
    )
    spec = place.provider.isolation(Isolation(subject.pods, directions, exceptions))
    policy = write_policy(pod, cluster, context, place, subject, spec, ttl=ttl)
    if not place.provider.denies:
        _check_other_policies(pod, cluster, subject, policy, directions)
    dns = ", DNS stays open" if "Egress" in directions and exceptions.dns else ""
    if place.provider.name == "cluster" and "Ingress" in directions:
        dns += ", and connections from outside the cluster, which this kind cannot deny"
    which = " and ".join(map(str.lower, directions))
    text = f"cut {which} of {_about(pod, selector)}{ttl_text(ttl)}{dns}"
    text += provider_text(provider, place) + _removed_text(subject)
    return ActionResult(text, {"provider": place.provider.name, "policy": place.name})


def _removed_text(subject: Subject) -> str:
    """Return which labels ``detach`` removes, at most ``_SHOWN`` of them."""
    labels = sorted(key for key, value in subject.patch.get("labels", {}).items() if value is None)
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return f"; detached by removing the labels {', '.join(labels[:_SHOWN])}{more}" if labels else ""


def _about(pod: Pod, selector: str | Mapping[str, Any]) -> str:
    if selector == "pod":
        return str(pod)
    if isinstance(selector, str):
        return f"{pod} and the other pods of its controller"
    labels = ", ".join(f"{key}={value}" for key, value in selector["matchLabels"].items())
    return f"the pods {labels} in {pod.namespace}"


def _subject(pod: Pod, cluster: Cluster, selector: str | Mapping[str, Any]) -> Subject:
    """Return the pods that the parameter ``selector`` names. Raises SkippedError, RefusedError."""
    if selector == "pod":
        return labelled_pod(pod)
    labels = pod.metadata.get("labels") or {}
    if isinstance(selector, str):
        wanted, owner = _owner_selector(pod, cluster)
        whose = "its controller"
    else:
        wanted, owner = {"matchLabels": selector["matchLabels"]}, None
        whose = "the step"
    if not matches(parse_selector(wanted), labels):
        raise RefusedError(f"the selector of {whose} does not select pod {pod}")
    return Subject(Pods(pod.namespace, wanted), labels, owner)


def _owner_selector(pod: Pod, cluster: Cluster) -> tuple[Object, Object]:
    """Return the selector of the pod's controller, and the ownerReference to the controller."""
    owner = pod.controller
    if owner is None or owner.get("kind") not in OWNERS:
        raise SkippedError(f"pod {pod} has no controller of a known kind")
    kind, name = OWNERS[owner["kind"]], owner["name"]
    found = cluster.get(kind, name, pod.namespace)
    if found is None or found["metadata"].get("uid", owner.get("uid")) != owner.get("uid"):
        raise SkippedError(f"pod {pod}: its {kind.kind} {name} does not exist")
    selector = dict(as_object(as_object(found.get("spec")).get("selector")))
    if not parse_selector(selector):  # empty or invalid
        raise RefusedError(f"{kind.kind} {name} has no selector")
    reference = {
        "apiVersion": kind.api_version,
        "kind": kind.kind,
        "name": name,
        "uid": owner["uid"],
    }
    return selector, reference


def _check_other_policies(
    pod: Pod,
    cluster: Cluster,
    subject: Subject,
    policy: Object,
    directions: tuple[PolicyType, ...],
) -> None:
    """Raise PermanentError if another policy allows the pod more than ours."""
    changed = {**pod.object, "metadata": {**pod.metadata, "labels": subject.labels}}
    others = cluster.list(NETWORK_POLICY, pod.namespace)
    still = find_less_restrictive(policy, others, changed, directions)
    if still is None:
        return
    found: Object = next((o for o in others if o["metadata"]["name"] == still), {})
    hint = "detach: true takes the pod out of it"
    if is_managed(found):
        run = (found["metadata"].get("annotations") or {}).get(RUN)
        hint = f"tiercel undo {run} removes it"
    raise PermanentError(f"still open through {still} ({hint})")
