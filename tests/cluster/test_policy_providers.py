"""The policies of each provider, read by a slow evaluator of its kind, against what the step is meant to cut."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import msgspec
import pytest
from engine.cluster.calico_policies import parse_selector, selects_for_egress
from engine.cluster.network_policies import NAMESPACE_NAME, Peer, is_allowed
from engine.cluster.policy_providers.cut import (
    MAX_DESTINATIONS,
    Destination,
    Exceptions,
    Isolation,
    Pods,
    kept_destinations,
    other_ports,
)
from engine.cluster.policy_providers.registry import PROVIDERS
from hypothesis import example, given, settings
from hypothesis import strategies as st

LABELS = {"app": "web", "tiercel.dev/quarantine": "x"}
PODS = Pods("demo", {"matchLabels": {"tiercel.dev/quarantine": "x"}})
POD = {"metadata": {"name": "web-0", "namespace": "demo", "labels": LABELS}, "spec": {}}
DNS_LABELS = {"k8s-app": "kube-dns"}
ALL_PORTS = range(1, 65536)
PORTS = [1, 53, 54, 443, 65535]
PROTOCOLS = ["TCP", "SCTP"]


def pod(namespace, ip, **labels):
    return Peer(
        ip, {"metadata": {"name": "p", "namespace": namespace, "labels": labels}, "spec": {}}
    )


OUTSIDE = [
    Peer(ip)
    for ip in (
        "192.0.2.1", "192.0.2.129", "198.51.100.7", "203.0.113.9", "8.8.8.8", "169.254.20.10",
        "2001:db8::1", "2001:db8:1::1", "2001:4860::8", "fd00::1",
    )
]  # fmt: skip
INSIDE = [
    pod("demo", "10.1.0.6", app="web"),
    pod("demo", "fd01::6", app="db"),
    pod("shop", "10.1.0.7", app="web"),
    pod("kube-system", "10.1.0.8", **DNS_LABELS),
    pod("kube-system", "10.1.0.9", app="metrics"),
    pod("monitoring", "10.1.0.10", **DNS_LABELS),
]
cidrs = st.sampled_from(
    ["192.0.2.0/24", "192.0.2.128/25", "192.0.2.1/32", "198.51.100.0/24", "8.0.0.0/6", "203.0.113.9/32",
     "2001:db8::/32", "2001:db8:1::/48", "2001:db8::1/128"]
)  # fmt: skip
port_sets = st.lists(st.sampled_from(PORTS), max_size=3, unique=True).map(sorted).map(tuple)
destinations = st.lists(st.builds(Destination, cidrs, port_sets), min_size=1, max_size=5)
exceptions = st.builds(
    Exceptions,
    st.booleans(),
    st.lists(cidrs, max_size=3).map(tuple),
    st.lists(st.sampled_from(["shop", "kube-system", "monitoring"]), max_size=2, unique=True).map(
        tuple
    ),
    port_sets,
).filter(lambda one: not one.ports or one.cidrs or one.namespaces)


# What is meant.


def contains(cidr, ip):
    network, address = ip_network(cidr), ip_address(ip)
    return network.version == address.version and address in network


def is_blocked(blocked, peer, port, protocol):
    return any(
        contains(one.network, peer.ip)
        and (not one.ports or (port in one.ports and protocol in ("TCP", "UDP")))
        for one in blocked
    )


def is_exempt(spared, direction, peer, port, protocol):
    namespace = peer.pod["metadata"]["namespace"] if peer.pod else None
    resolver = namespace == "kube-system" and peer.pod["metadata"]["labels"] == DNS_LABELS
    is_dns = direction == "Egress" and spared.dns and port == 53 and protocol in ("TCP", "UDP")
    if is_dns and (resolver or peer.ip == "169.254.20.10"):
        return True
    if spared.ports and (port not in spared.ports or protocol not in ("TCP", "UDP")):
        return False
    by_address = any(contains(cidr, peer.ip) for cidr in spared.cidrs)
    return by_address or namespace in spared.namespaces


# How each kind is read: whether it cuts a connection. None of these knows how the engine writes them.


def kubernetes_cuts(spec, direction, peer, port, protocol):
    policy = {"metadata": {"name": "tiercel", "namespace": "demo"}, "spec": spec}
    return not is_allowed([policy], POD, direction, peer, port, protocol)


def selects(selector, labels):
    def meets(item):
        value, values = labels.get(item["key"]), item.get("values")
        return {
            "In": lambda: value in values,
            "NotIn": lambda: value not in values,
            "Exists": lambda: value is not None,
        }[item["operator"]]()

    wanted = (selector.get("matchLabels") or {}).items()
    return wanted <= labels.items() and all(map(meets, selector.get("matchExpressions") or []))


def cluster_cuts(spec, direction, peer, port, protocol):
    """Return whether a ClusterNetworkPolicy denies: the first rule that matches decides."""
    for rule in spec.get(direction.lower(), []):
        peers = rule["to" if direction == "Egress" else "from"]
        protocols = rule.get("protocols")
        fits = protocols is None or any(
            one.get(protocol.lower(), {}).get("destinationPort", {}).get("number") == port
            for one in protocols
        )
        if fits and any(is_cluster_peer(one, peer) for one in peers):
            return rule["action"] == "Deny"
    return False


def is_cluster_peer(one, peer):
    if "networks" in one:
        return any(contains(cidr, peer.ip) for cidr in one["networks"])
    if peer.pod is None:
        return False
    around = {NAMESPACE_NAME: peer.pod["metadata"]["namespace"]}
    if "namespaces" in one:
        return selects(one["namespaces"], around)
    labels = peer.pod["metadata"]["labels"]
    pods = one["pods"]
    return selects(pods["namespaceSelector"], around) and selects(pods["podSelector"], labels)


def cilium_cuts(spec, direction, peer, port, protocol):
    """Return whether a CiliumNetworkPolicy denies: any rule does. CIDRs are not applied to pods."""
    side = "to" if direction == "Egress" else "from"
    for rule in spec.get(f"{direction.lower()}Deny", []):
        if is_cilium_peer(rule, side, peer) and is_cilium_port(rule.get("toPorts"), port, protocol):
            return True
    return False


def is_cilium_peer(rule, side, peer):
    if peer.pod is None:
        blocks = [{"cidr": cidr} for cidr in rule.get(f"{side}CIDR", [])] + rule.get(
            f"{side}CIDRSet", []
        )
        return any(
            contains(one["cidr"], peer.ip)
            and not any(contains(c, peer.ip) for c in one.get("except", []))
            for one in blocks
        )
    labels = {f"k8s:{key}": value for key, value in peer.pod["metadata"]["labels"].items()}
    labels["k8s:io.kubernetes.pod.namespace"] = peer.pod["metadata"]["namespace"]
    return any(selects(one, labels) for one in rule.get(f"{side}Endpoints", []))


def is_cilium_port(items, port, protocol):
    return items is None or any(
        entry["protocol"] == protocol
        and int(entry["port"]) <= port <= entry.get("endPort", int(entry["port"]))
        for item in items
        for entry in item["ports"]
    )


def calico_cuts(spec, direction, peer, port, protocol):
    """Return whether a policy of Calico denies: the first rule that matches decides, and no rule is a Deny."""
    side = "destination" if direction == "Egress" else "source"
    for rule in spec.get(direction.lower(), []):
        ports = rule.get("destination", {}).get("ports")
        fits = rule.get("protocol") in (None, protocol) and (ports is None or port in ports)
        if fits and is_calico_peer(rule.get(side, {}), peer):
            return rule["action"] == "Deny"
    return True


def is_calico_peer(entity, peer):
    if "nets" in entity:
        return any(contains(cidr, peer.ip) for cidr in entity["nets"])
    if not {"selector", "namespaceSelector"} & entity.keys():
        return True
    if peer.pod is None:
        return False
    around = {NAMESPACE_NAME: peer.pod["metadata"]["namespace"]}
    labels = peer.pod["metadata"]["labels"]
    of_pod = "selector" not in entity or parse_selector(entity["selector"])(labels)
    return of_pod and parse_selector(entity["namespaceSelector"])(around)


CUTS = {
    "kubernetes": kubernetes_cuts, "cluster": cluster_cuts, "cilium": cilium_cuts, "calico": calico_cuts,
}  # fmt: skip
every_provider = pytest.mark.parametrize("provider", PROVIDERS)


@every_provider
@settings(max_examples=10)
@given(destinations)
@example(
    [
        Destination("192.0.2.0/24", (443,)),
        Destination("192.0.2.1/32", (80,)),
        Destination("192.0.2.1/32"),
    ]
)
def test_a_block_cuts_its_destinations_and_nothing_else(provider, blocked):
    one = PROVIDERS[provider]
    frame = one.block_subject(PODS)
    if provider == "calico":
        frame["egress"] = [{"action": "Allow"}]  # no other policy selects the pod
    spec = one.with_destinations(frame, blocked)
    assert one.with_destinations(spec, blocked) == spec
    for peer in [*OUTSIDE, *INSIDE]:
        for port in PORTS:
            for protocol in PROTOCOLS:
                cut = CUTS[provider](spec, "Egress", peer, port, protocol)
                reached = one.pods_by_address or peer.pod is None
                expected = reached and is_blocked(blocked, peer, port, protocol)
                assert cut is expected, (peer, port, protocol)
    if provider == "kubernetes":  # all protocols stay open to every other address
        assert not kubernetes_cuts(spec, "Egress", Peer("1.1.1.1"), 0, "ICMP")


@every_provider
@settings(max_examples=10)
@given(exceptions, st.sampled_from([("Egress",), ("Ingress",), ("Ingress", "Egress")]))
def test_an_isolation_cuts_everything_but_its_exceptions(provider, spared, directions):
    spec = PROVIDERS[provider].isolation(Isolation(PODS, directions, spared))
    for direction in directions:
        by_name = provider == "cluster" and direction == "Ingress"  # addresses cannot be named
        named = msgspec.structs.replace(spared, cidrs=())
        for peer in [*OUTSIDE, *INSIDE]:
            if by_name and peer.pod is None:
                continue
            # Cilium does not apply CIDRs to pods
            known = named if by_name or (provider == "cilium" and peer.pod) else spared
            for port in PORTS:
                for protocol in PROTOCOLS:
                    cut = CUTS[provider](spec, direction, peer, port, protocol)
                    exempt = is_exempt(known, direction, peer, port, protocol)
                    assert cut is not exempt, (direction, peer, port, protocol)
    for direction in {"Ingress", "Egress"} - set(directions):
        assert direction not in spec.get("policyTypes", ())
        assert not {direction.lower(), f"{direction.lower()}Deny"} & spec.keys()


@every_provider
def test_a_policy_can_hold_the_most_destinations_and_ports(provider):
    one = PROVIDERS[provider]
    most = [Destination(f"198.51.{n}.7/32", (443, 8443)) for n in range(MAX_DESTINATIONS)]
    spec = one.with_destinations(one.block_subject(PODS), most)
    for peer in (Peer("198.51.0.7"), Peer("198.51.99.7")):
        assert CUTS[provider](spec, "Egress", peer, 443, "TCP")
    for rule in spec["egress"] if provider == "cluster" else []:
        assert max(len(rule["to"]), *(len(to["networks"]) for to in rule["to"])) <= 25


@settings(max_examples=8)
@given(port_sets)
def test_the_other_ports_are_all_but_these(ports):
    ranges = list(other_ports(ports))
    assert {port for first, last in ranges for port in range(first, last + 1)} == set(
        ALL_PORTS
    ) - set(ports)


@given(destinations)
def test_a_destination_is_read_from_the_annotation_that_keeps_it(every):
    annotations = {f"block.tiercel.dev/{n}": one.annotation for n, one in enumerate(every)}
    assert list(kept_destinations({**annotations, "x": "192.0.2.1/32"}).values()) == every


@pytest.mark.parametrize(
    "text", ["", "x", "192.0.2.1", "192.0.2.1/32 ", "192.0.2.1/32 a", None, 7, "1" * 9000]
)
def test_an_annotation_that_keeps_no_destination_is_ignored(text):
    assert kept_destinations({"block.tiercel.dev/0": text}) == {}


# The selectors of Calico.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True), (None, True), ("all()", True), ("global()", True), ("app == 'web'", True),
        ('app == "web"', True), ("app == 'db'", False), ("app != 'db'", True), ("tier != 'x'", True),
        ("app in {'db', 'web'}", True), ("app in {}", False), ("app not in {'db'}", True),
        ("tier not in {'a'}", True), ("has(app)", True), ("!has(app)", False), ("has(tier)", False),
        ("app contains 'e'", True), ("app starts with 'we'", True), ("app ends with 'x'", False),
        ("tier contains ''", False), ("app == 'web' && has(tier)", False),
        ("has(tier) || app == 'web' && !has(tier)", True), ("!(app == 'web' || has(tier))", False),
        ("projectcalico.org/namespace == 'demo'", True), ("!!has(app)", True),
        ("app ==", None), ("app === 'web'", None), ("(app == 'web'", None), ("app == 'web' junk", None),
        ("app == web", None), ("'app' == 'web'", None), ("(" * 100 + "all()" + ")" * 100, None),
        ("all() && " * 5000 + "all()", None), (7, None), ("has()", None), ("app in {'a'", None),
        ("app starts 'w'", None), ("\0", None),
    ],
)  # fmt: skip
def test_selectors_of_calico_are_read_as_calico_reads_them(text, expected):
    policy = {
        "metadata": {"name": "p", "namespace": "demo"},
        "spec": {"types": ["Egress"], "selector": text},
    }
    assert selects_for_egress(policy, POD, {}) is expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"types": ["Ingress"]}, False),
        ({"types": ["Ingress", "Egress"]}, True),
        ({"egress": [{"action": "Deny"}]}, True),
        ({"ingress": [{"action": "Deny"}]}, False),
        ({"types": ["Egress"], "namespaceSelector": "env == 'prod'"}, True),
        ({"types": ["Egress"], "namespaceSelector": "projectcalico.org/name == 'shop'"}, False),
        ({"types": ["Egress"], "serviceAccountSelector": "all()"}, None),
        ({"types": ["Egress"], "serviceAccountSelector": "all()", "selector": "has(x)"}, False),
        (None, False),
    ],
)
def test_a_global_policy_of_calico_selects_by_namespace_and_direction(spec, expected):
    assert (
        selects_for_egress({"metadata": {"name": "g"}, "spec": spec}, POD, {"env": "prod"})
        is expected
    )


def test_a_policy_of_calico_in_another_namespace_does_not_select():
    policy = {"metadata": {"name": "p", "namespace": "shop"}, "spec": {"types": ["Egress"]}}
    assert selects_for_egress(policy, POD, {}) is False
