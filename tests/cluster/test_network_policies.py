"""NetworkPolicies: examples, and a comparison with a simple, slow oracle written from the documentation."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from engine.cluster.network_policies import (
    NAMESPACE_NAME,
    Peer,
    applies_to,
    find_less_restrictive,
    is_allowed,
    policy_types,
)
from hypothesis import given, settings
from hypothesis import strategies as st

EGRESS = frozenset({"Egress"})
INGRESS = frozenset({"Ingress"})
DNS = {
    "to": [
        {
            "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        },
        {"ipBlock": {"cidr": "169.254.20.10/32"}},
    ],
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
}


def policy(name="other", selector=None, namespace="demo", **spec):
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": selector or {}, **spec},
    }


def egress(*rules, name="other", **more):
    return policy(name, policyTypes=["Egress"], egress=list(rules), **more)


def ingress(*rules, name="other", **more):
    return policy(name, policyTypes=["Ingress"], ingress=list(rules), **more)


def a_pod(namespace="demo", ports=(), **labels):
    containers = [{"name": "main", "ports": list(ports)}]
    metadata = {"name": "nginx", "namespace": namespace, "labels": labels}
    return {"metadata": metadata, "spec": {"containers": containers}}


NGINX = a_pod(app="nginx")
KUBE_DNS = Peer(ip="10.1.0.5", pod=a_pod("kube-system", **{"k8s-app": "kube-dns"}))
ISOLATED = egress(DNS, name="tiercel-5be01f23c4", selector={"matchLabels": {"quarantine": "x"}})


def cidr(*cidrs, ports=None, **block):
    rule = {"to": [{"ipBlock": {"cidr": c, **block}} for c in cidrs]}
    return rule if ports is None else {**rule, "ports": ports}


def reaches(policies, peer, port=443, protocol="TCP", pod=NGINX):
    return is_allowed(policies, pod, "Egress", peer, port, protocol)


def is_wider(own, other, pod=NGINX, cut=EGRESS):
    return find_less_restrictive(own, [other], pod, cut) is not None


# Which pods, which directions.


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ({}, True),
        (None, True),
        ({"matchLabels": {"app": "nginx"}}, True),
        ({"matchLabels": {"app": "nginx", "tier": "web"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", "nginx"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["nginx"]}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["web"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "Gt", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": []}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "Exists", "values": ["x"]}]}, False),
        ({"matchExpressions": [None]}, False),
        ({"matchLabels": None, "matchExpressions": None}, True),
        ({"matchLabels": {"app": ["nginx"]}}, False),
        ("app=nginx", False),
    ],
)
def test_the_pod_selector_decides_to_which_pods_a_policy_applies(selector, selected):
    made = policy()
    made["spec"]["podSelector"] = selector
    assert applies_to(made, NGINX) is selected


def test_a_policy_applies_only_to_pods_of_its_namespace():
    assert not applies_to(policy(namespace="elsewhere"), NGINX)


def test_all_requirements_of_a_selector_must_match():
    both = {
        "matchLabels": {"app": "nginx"},
        "matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["nginx"]}],
    }
    assert not applies_to(policy(selector=both), NGINX)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, INGRESS),
        ({"ingress": [{}]}, INGRESS),
        ({"egress": [{}]}, INGRESS | EGRESS),
        ({"egress": []}, INGRESS),
        ({"policyTypes": [], "egress": [{}]}, INGRESS | EGRESS),
        ({"policyTypes": None}, INGRESS),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, EGRESS),
        ({"policyTypes": ["Ingress", "Egress"]}, INGRESS | EGRESS),
        ({"policyTypes": ["Egress", "Sideways", None]}, EGRESS),
    ],
)
def test_policy_types_default_as_in_kubernetes(spec, expected):
    assert policy_types(policy(**spec)) == expected


# What a union lets through.


def test_a_pod_without_policies_is_not_isolated():
    elsewhere = egress(selector={"matchLabels": {"app": "redis"}})
    assert reaches([], Peer(ip="213.215.222.58"))
    assert reaches([elsewhere], Peer(ip="213.215.222.58"))


def test_a_policy_for_one_direction_does_not_isolate_the_other():
    assert reaches([ingress()], Peer(ip="213.215.222.58"))
    assert not is_allowed([ingress()], NGINX, "Ingress", Peer(ip="213.215.222.58"), 80)


def test_default_deny_isolates_and_allow_all_allows():
    assert not reaches([egress()], Peer(ip="213.215.222.58"))
    assert reaches([egress({})], Peer(ip="213.215.222.58"))
    assert reaches([egress({"to": [], "ports": []})], Peer(ip="2001:db8::1"), 53, "UDP")
    assert reaches([egress({"to": None, "ports": None})], KUBE_DNS, 0, "ICMP")
    assert reaches([egress(None)], Peer(ip="8.8.8.8"))
    assert not reaches([egress("everything", 7, [])], Peer(ip="8.8.8.8"))


def test_policies_are_additive():
    shut, open_ = egress(), egress(cidr("213.215.222.0/24"))
    assert reaches([shut, open_], Peer(ip="213.215.222.58"))
    assert not reaches([shut, open_], Peer(ip="213.215.223.58"))


def test_the_isolated_pod_can_use_only_dns():
    pod = a_pod(app="nginx", quarantine="x")
    assert not reaches([ISOLATED], Peer(ip="213.215.222.58"), pod=pod)
    assert reaches([ISOLATED], KUBE_DNS, 53, "UDP", pod)
    assert reaches([ISOLATED], KUBE_DNS, 53, "TCP", pod)
    assert reaches([ISOLATED], Peer(ip="169.254.20.10"), 53, "UDP", pod)
    assert not reaches([ISOLATED], KUBE_DNS, 443, "TCP", pod)
    assert not reaches([ISOLATED], Peer(ip="10.1.0.5"), 53, "UDP", pod)


@pytest.mark.parametrize(
    ("block", "ip", "inside"),
    [
        ({"cidr": "10.0.0.0/8"}, "10.255.255.255", True),
        ({"cidr": "10.0.0.0/8"}, "11.0.0.0", False),
        ({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, "10.1.255.255", False),
        ({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, "10.2.0.0", True),
        ({"cidr": "10.0.0.0/8", "except": None}, "10.2.0.0", True),
        ({"cidr": "10.0.0.5/8"}, "10.2.0.0", True),
        ({"cidr": "010.0.0.0/08"}, "10.2.0.0", True),
        ({"cidr": "0.0.0.0/0"}, "::1", False),
        ({"cidr": "0.0.0.0/0"}, "255.255.255.255", True),
        ({"cidr": "::/0"}, "8.8.8.8", False),
        ({"cidr": "::/0"}, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", True),
        ({"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"]}, "2001:db8:1::7", False),
        ({"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"]}, "2001:db8:2::7", True),
        ({"cidr": "10.0.0.0/8"}, "::ffff:10.0.0.1", True),
        ({"cidr": "::ffff:10.0.0.0/104"}, "10.2.0.1", True),
        ({"cidr": "10.0.0.0/8"}, "no address", False),
        ({"cidr": "nonsense"}, "10.0.0.1", False),
        ({"cidr": None}, "10.0.0.1", False),
        ({"cidr": "10.0.0.0/8", "except": ["nonsense"]}, "10.0.0.1", False),
        ({}, "10.0.0.1", False),
    ],
)
def test_an_ip_block_contains_its_network_without_the_exceptions(block, ip, inside):
    assert reaches([egress({"to": [{"ipBlock": block}]})], Peer(ip=ip)) is inside


WEB = {"matchLabels": {"app": "web"}}
PROD = {"matchLabels": {"env": "prod"}}


@pytest.mark.parametrize(
    ("peer", "namespace", "app", "env", "meant"),
    [
        ({"podSelector": WEB}, "demo", "web", "dev", True),
        ({"podSelector": WEB}, "demo", "db", "dev", False),
        ({"podSelector": WEB}, "shop", "web", "prod", False),
        ({"podSelector": {}}, "demo", "db", "dev", True),
        ({"podSelector": {}}, "shop", "db", "dev", False),
        ({"namespaceSelector": PROD}, "shop", "db", "prod", True),
        ({"namespaceSelector": PROD}, "shop", "db", "dev", False),
        ({"namespaceSelector": {}}, "shop", "db", "dev", True),
        ({"namespaceSelector": PROD, "podSelector": WEB}, "shop", "web", "prod", True),
        ({"namespaceSelector": PROD, "podSelector": WEB}, "shop", "db", "prod", False),
        ({"namespaceSelector": PROD, "podSelector": WEB}, "shop", "web", "dev", False),
        ({"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: "shop"}}}, "shop", "a", "b", True),
        ({"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: "shop"}}}, "demo", "a", "b", False),
        ({"namespaceSelector": "prod"}, "shop", "web", "prod", False),
        ({}, "demo", "web", "prod", False),
        (None, "demo", "web", "prod", False),
        ({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}, "demo", "web", "prod", False),
        ({"ipBlock": {"cidr": "10.0.0.0/8"}}, "demo", "web", "prod", True),
    ],
)
def test_selectors_match_the_pod_and_its_namespace(peer, namespace, app, env, meant):
    who = Peer(ip="10.1.1.1", pod=a_pod(namespace, app=app), namespace_labels={"env": env})
    assert reaches([egress({"to": [peer]})], who) is meant
    assert is_allowed([ingress({"from": [peer]})], NGINX, "Ingress", who, 80) is meant


def test_peers_are_alternatives_and_selectors_of_one_peer_are_combined():
    who = Peer(pod=a_pod("shop", app="web"), namespace_labels={"env": "dev"})
    either = {"to": [{"namespaceSelector": PROD}, {"podSelector": WEB}]}
    here = Peer(pod=a_pod("demo", app="web"))
    assert reaches([egress(either)], here)
    assert not reaches([egress(either)], who)


def test_a_label_cannot_replace_the_name_of_the_namespace():
    liar = Peer(pod=a_pod("shop"), namespace_labels={NAMESPACE_NAME: "demo"})
    assert not reaches([egress({"to": [{"podSelector": {}}]})], liar)


@pytest.mark.parametrize(
    ("port", "number", "protocol", "open_"),
    [
        ({"port": 443}, 443, "TCP", True),
        ({"port": 443}, 443, "UDP", False),
        ({"port": 443}, 444, "TCP", False),
        ({"protocol": "UDP"}, 9, "UDP", True),
        ({"protocol": "UDP"}, 9, "TCP", False),
        ({"protocol": None, "port": None}, 9, "TCP", True),
        (None, 9, "TCP", True),
        (None, 9, "UDP", False),
        ({"port": 32000, "endPort": 32768}, 32768, "TCP", True),
        ({"port": 32000, "endPort": 32768}, 32769, "TCP", False),
        ({"port": 32000, "endPort": 31000}, 32000, "TCP", False),
        ({"endPort": 31000}, 31000, "TCP", False),
        ({"port": "http", "endPort": 90}, 80, "TCP", False),
        ({"port": 70000}, 70000, "TCP", False),
        ({"port": 0}, 0, "TCP", False),
        ({"port": True}, 1, "TCP", False),
        ({"port": 443, "protocol": "tcp"}, 443, "TCP", False),
        ({"port": 443, "protocol": ["TCP"]}, 443, "TCP", False),
        ({"port": 1, "endPort": 65535}, 0, "ICMP", False),
    ],
)
def test_a_port_is_a_number_a_range_or_all_ports_of_its_protocol(port, number, protocol, open_):
    assert reaches([egress({"ports": [port]})], Peer(ip="8.8.8.8"), number, protocol) is open_


HTTP = {"name": "http", "containerPort": 8080}


def test_a_named_ingress_port_is_a_port_of_the_selected_pod():
    rule, client = ingress({"ports": [{"port": "http"}]}), Peer(ip="8.8.8.8", pod=a_pod())
    assert is_allowed([rule], a_pod(ports=[HTTP]), "Ingress", client, 8080)
    assert not is_allowed([rule], a_pod(ports=[HTTP]), "Ingress", client, 80)
    assert not is_allowed([rule], a_pod(ports=[HTTP]), "Ingress", client, 8080, "UDP")
    datagrams = a_pod(ports=[{**HTTP, "protocol": "UDP"}])
    assert not is_allowed([rule], datagrams, "Ingress", client, 8080)
    assert not is_allowed([rule], datagrams, "Ingress", client, 8080, "UDP")
    assert not is_allowed([rule], NGINX, "Ingress", Peer(pod=a_pod(ports=[HTTP])), 8080)


def test_a_named_egress_port_is_a_port_of_the_peer():
    rule = egress({"ports": [{"port": "http"}]})
    assert reaches([rule], Peer(pod=a_pod(ports=[HTTP])), 8080)
    assert not reaches([rule], Peer(pod=a_pod(ports=[HTTP])), 80)
    assert not reaches([rule], Peer(pod=a_pod(ports=[{**HTTP, "protocol": "UDP"}])), 8080)
    assert not reaches([rule], Peer(ip="8.8.8.8"), 8080, pod=a_pod(ports=[HTTP]))
    datagrams = egress({"ports": [{"port": "http", "protocol": "UDP"}]})
    assert not reaches([datagrams], Peer(pod=a_pod(ports=[{**HTTP, "protocol": "UDP"}])), 8080)


# Which policy undoes another.


def test_no_other_policy_is_not_less_restrictive():
    assert find_less_restrictive(ISOLATED, [], NGINX, EGRESS) is None


def test_the_first_less_restrictive_policy_is_returned():
    others = [egress(name="default-deny"), egress({}, name="open-1"), egress({}, name="open-2")]
    assert find_less_restrictive(ISOLATED, others, NGINX, EGRESS) == "open-1"


@pytest.mark.parametrize(
    "other",
    [
        egress({}, selector={"matchLabels": {"app": "redis"}}),
        egress({}, namespace="elsewhere"),
        ingress({}),
        policy(policyTypes=["Ingress"], egress=[{}]),
        egress({}, name=ISOLATED["metadata"]["name"]),
    ],
    ids=["other pods", "other namespace", "other direction", "idle rules", "itself, earlier"],
)
def test_a_policy_that_does_not_apply_is_not_less_restrictive(other):
    assert not is_wider(ISOLATED, other)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (egress(DNS), False),
        (egress({**DNS, "to": DNS["to"][:1]}), False),
        (egress({**DNS, "ports": [{"port": 53, "protocol": "UDP"}]}), False),
        (egress({"ports": DNS["ports"]}), True),
        (egress({"to": DNS["to"]}), True),
        (egress({"to": [{"namespaceSelector": {}, "podSelector": {}}], **DNS}), False),
        (egress({**DNS, "to": [{"namespaceSelector": {}}]}), True),
        (egress({**DNS, "ports": [{"port": 53, "endPort": 54}]}), True),
        (egress(cidr("169.254.20.10/31", ports=DNS["ports"])), True),
        (egress(cidr("10.0.0.0/8")), True),
        (egress({"to": [{"podSelector": {}}]}), True),
        (egress({"to": [{}]}), False),
        (egress({"ports": [{"port": 70000}]}), False),
        (policy(egress=[{}]), True),
        (policy(), False),
    ],
)
def test_a_policy_that_allows_only_dns_is_not_less_restrictive(other, expected):
    assert is_wider(ISOLATED, other) is expected


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (["10.0.0.0/9", "10.128.0.0/9"], {"cidr": "10.0.0.0/8"}, False),
        (["10.0.0.0/9"], {"cidr": "10.0.0.0/8"}, True),
        (["10.0.0.0/9"], {"cidr": "10.0.0.0/8", "except": ["10.128.0.0/9"]}, False),
        (["10.0.0.0/9"], {"cidr": "10.0.0.0/8", "except": ["10.129.0.0/16"]}, True),
        (["0.0.0.0/0"], {"cidr": "::/0"}, True),
        (["0.0.0.0/0", "::/0"], {"cidr": "::/0"}, False),
        (["::/1", "8000::/1"], {"cidr": "::/0"}, False),
        (["10.0.0.0/8"], {"cidr": "::ffff:10.1.0.0/112"}, False),
        (["10.0.0.0/8"], {"cidr": "010.1.0.0/16"}, False),
        (["10.0.0.0/8"], {"cidr": "011.1.0.0/16"}, True),
        (["10.0.0.0/8"], {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}, False),
    ],
)
def test_addresses_are_compared_exactly(own, other, expected):
    made = egress({"to": [{"ipBlock": other}]})
    assert is_wider(egress(cidr(*own), name="own"), made) is expected


def test_the_ports_of_several_rules_for_the_same_addresses_are_combined():
    own = egress(
        cidr("10.0.0.0/8", ports=[{"port": 1, "endPort": 100}]),
        cidr("10.0.0.0/9", ports=[{"port": 101, "endPort": 200}]),
        name="own",
    )
    both = [{"port": 50, "endPort": 150}]
    assert not is_wider(own, egress(cidr("10.0.0.0/9", ports=both)))
    assert is_wider(own, egress(cidr("10.0.0.0/8", ports=both)))


def test_all_ports_include_other_protocols():
    every = [{"protocol": name} for name in ("TCP", "UDP", "SCTP")]
    assert is_wider(egress(cidr("10.0.0.0/8", ports=every), name="own"), egress(cidr("10.0.0.0/8")))
    assert not is_wider(egress(cidr("10.0.0.0/8"), name="own"), egress(cidr("10.0.0.0/8")))


def selecting(selector, **more):
    return egress({"to": [{"podSelector": selector}], **more})


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        ({}, WEB, False),
        (WEB, WEB, False),
        (WEB, {}, True),
        (WEB, {"matchLabels": {"app": "web", "tier": "x"}}, False),
        ({"matchLabels": {"app": "web", "tier": "x"}}, WEB, True),
        (
            {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "db"]}]},
            WEB,
            False,
        ),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, WEB, False),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]}, WEB, False),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, WEB, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, WEB, True),
    ],
)
def test_a_selector_is_covered_by_one_that_selects_the_same_pods(own, other, expected):
    mine = egress({"to": [{"podSelector": own}]}, name="own")
    assert is_wider(mine, selecting(other)) is expected


def test_the_namespace_of_the_policy_can_be_written_in_two_ways():
    spelt = {"namespaceSelector": {"matchLabels": {NAMESPACE_NAME: "demo"}}, "podSelector": WEB}
    own = egress({"to": [spelt]}, name="own")
    assert not is_wider(own, selecting(WEB))
    assert not is_wider(egress({"to": [{"podSelector": {}}]}, name="own"), egress({"to": [spelt]}))


def test_an_ip_block_is_not_compared_with_a_selector():
    everywhere = egress(cidr("0.0.0.0/0", "::/0"), name="own")
    every_pod = egress({"to": [{"namespaceSelector": {}}]}, name="own")
    assert is_wider(everywhere, selecting({}))
    assert is_wider(every_pod, egress(cidr("10.0.0.0/8")))


def test_a_rule_without_peers_allows_every_address_and_every_pod():
    own = egress(cidr("0.0.0.0/0", "::/0"), {"to": [{"namespaceSelector": {}}]}, name="own")
    assert not is_wider(own, egress({}))


def test_a_named_egress_port_is_covered_by_itself_or_by_all_ports_of_its_protocol():
    other = selecting(WEB, ports=[{"port": "http"}])
    assert not is_wider(egress({"to": [{"podSelector": WEB}]}, name="own"), other)
    for port, expected in (
        ({"port": "http"}, False),
        ({"port": "https"}, True),
        ({"protocol": "TCP"}, False),
        ({"port": 1, "endPort": 65535}, False),
        ({"protocol": "UDP"}, True),
        ({"port": 80}, True),
    ):
        own = egress({"to": [{"podSelector": WEB}], "ports": [port]}, name="own")
        assert is_wider(own, other) is expected, port


def test_a_named_ingress_port_is_compared_by_its_number():
    own = ingress({"ports": [{"port": 8080}]}, name="own")
    other = ingress({"ports": [{"port": "http"}]})
    assert not is_wider(own, other, a_pod(ports=[HTTP]), INGRESS)
    assert is_wider(own, other, a_pod(ports=[{**HTTP, "containerPort": 9}]), INGRESS)
    assert not is_wider(own, other, NGINX, INGRESS)


def test_many_exceptions_are_compared_quickly():
    holes = [f"10.{a}.{b}.{c}/32" for a in range(3) for b in range(100) for c in range(0, 200, 2)]
    other = egress({"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": holes}}]})
    assert is_wider(ISOLATED, other)
    assert not is_wider(egress(cidr("10.0.0.0/8"), name="own"), other)


# Properties, on small worlds in which everything can be tried.

CIDRS = [
    *("10.0.0.0/30", "10.0.0.0/31", "10.0.0.2/31", "10.0.0.1/32", "10.0.0.4/30", "0.0.0.0/0"),
    *("::/0", "fd00::/126", "fd00::2/127", "fd00::1/128"),
]
NAMES = ["http", "dns"]
LABELS = ["a", "b"]
cidrs = st.sampled_from(CIDRS)
blocks = st.fixed_dictionaries({"cidr": cidrs}, optional={"except": st.lists(cidrs, max_size=2)})
expressions = st.one_of(
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(["app", "env", NAMESPACE_NAME]),
            "operator": st.sampled_from(["In", "NotIn"]),
            "values": st.lists(st.sampled_from([*LABELS, "demo"]), min_size=1, max_size=2),
        }
    ),
    st.fixed_dictionaries(
        {
            "key": st.sampled_from(["app", "env"]),
            "operator": st.sampled_from(["Exists", "DoesNotExist"]),
        }
    ),
)
label_maps = st.dictionaries(st.sampled_from(["app", "env"]), st.sampled_from(LABELS), max_size=2)
selectors = st.fixed_dictionaries(
    {}, optional={"matchLabels": label_maps, "matchExpressions": st.lists(expressions, max_size=2)}
)
peers = st.one_of(
    st.fixed_dictionaries({"ipBlock": blocks}),
    st.fixed_dictionaries({"podSelector": selectors}, optional={"namespaceSelector": selectors}),
    st.fixed_dictionaries({"namespaceSelector": selectors}),
)
numbers = st.integers(min_value=78, max_value=82)
protocols = st.sampled_from(["TCP", "UDP"])
ports = st.one_of(
    st.fixed_dictionaries({"port": numbers}, optional={"protocol": protocols}),
    st.fixed_dictionaries({"port": numbers, "endPort": numbers}, optional={"protocol": protocols}),
    st.fixed_dictionaries({"port": st.sampled_from(NAMES)}, optional={"protocol": protocols}),
    st.fixed_dictionaries({"protocol": protocols}),
)


def rules(side):
    some = {side: st.lists(peers, max_size=3), "ports": st.lists(ports, max_size=3)}
    return st.lists(st.fixed_dictionaries({}, optional=some), max_size=3)


policies = st.builds(
    lambda selector, spec: policy(selector=selector, **spec),
    st.one_of(st.just({}), st.just({}), selectors),
    st.fixed_dictionaries(
        {"ingress": rules("from"), "egress": rules("to")},
        optional={
            "policyTypes": st.lists(st.sampled_from(["Ingress", "Egress"]), unique=True, max_size=2)
        },
    ),
)
container_ports = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(NAMES), "containerPort": numbers}, optional={"protocol": protocols}
    ),
    max_size=2,
)
pods = st.builds(
    lambda namespace, open_, labels: a_pod(namespace, open_, **labels),
    st.sampled_from(["demo", "a"]),
    container_ports,
    label_maps,
)
here = st.builds(lambda open_, labels: a_pod("demo", open_, **labels), container_ports, label_maps)
WORLD_ADDRESSES = ["9.9.9.9", *(f"10.0.0.{n}" for n in range(8)), *(f"fd00::{n}" for n in range(5))]
sides = st.sampled_from(["Ingress", "Egress"])


def meets(selector, labels):
    """Return whether labels match a selector, according to the oracle."""
    wanted = dict(selector.get("matchLabels") or {})
    for item in selector.get("matchExpressions") or []:
        key, operator, values = item["key"], item["operator"], item.get("values", [])
        if operator == "In" and (key not in labels or labels[key] not in values):
            return False
        if operator == "NotIn" and key in labels and labels[key] in values:
            return False
        if operator == "Exists" and key not in labels:
            return False
        if operator == "DoesNotExist" and key in labels:
            return False
    return all(labels.get(key) == value for key, value in wanted.items())


def in_block(block, ip):
    if ip is None:
        return False
    return ip_address(ip) in ip_network(block["cidr"]) and not any(
        ip_address(ip) in ip_network(hole) for hole in block.get("except", [])
    )


def is_peer(entry, who, namespace):
    if "ipBlock" in entry:
        return in_block(entry["ipBlock"], who.ip)
    if who.pod is None:
        return False
    metadata = who.pod["metadata"]
    if "namespaceSelector" in entry:
        around = {**who.namespace_labels, NAMESPACE_NAME: metadata["namespace"]}
        inside = meets(entry["namespaceSelector"], around)
    else:
        inside = metadata["namespace"] == namespace
    return inside and meets(entry.get("podSelector", {}), metadata["labels"])


def is_port(entry, listener, port, protocol):
    if entry.get("protocol", "TCP") != protocol:
        return False
    wanted = entry.get("port")
    if isinstance(wanted, str):
        return any(
            (p["name"], p["containerPort"], p.get("protocol", "TCP")) == (wanted, port, protocol)
            for p in (listener or a_pod())["spec"]["containers"][0]["ports"]
        )
    if wanted is None:
        return True
    return wanted <= port <= entry.get("endPort", wanted)


def oracle(several, pod, direction, who, port, protocol):
    key, side = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    open_, found = True, False
    for made in several:
        spec = made["spec"]
        types = spec.get("policyTypes")
        if not types:
            types = ["Ingress", "Egress"] if spec["egress"] else ["Ingress"]
        if direction not in types or not meets(spec["podSelector"], pod["metadata"]["labels"]):
            continue
        open_ = False
        listener = pod if direction == "Ingress" else who.pod
        for rule in spec[key]:
            peers_, ports_ = rule.get(side), rule.get("ports")
            if peers_ and not any(is_peer(p, who, "demo") for p in peers_):
                continue
            if ports_ and not any(is_port(p, listener, port, protocol) for p in ports_):
                continue
            found = True
    return open_ or found


def test_the_oracle_distinguishes_dns():
    assert oracle([egress(DNS)], NGINX, "Egress", KUBE_DNS, 53, "UDP")
    assert not oracle([egress(DNS)], NGINX, "Egress", KUBE_DNS, 443, "TCP")


callers = st.one_of(
    st.builds(Peer, ip=st.sampled_from(WORLD_ADDRESSES)),
    st.builds(
        Peer,
        ip=st.sampled_from([None, *WORLD_ADDRESSES]),
        pod=pods,
        namespace_labels=st.dictionaries(st.just("env"), st.sampled_from(LABELS)),
    ),
)
probes = st.sampled_from([77, 78, 79, 80, 81, 82, 83, 65535])


@settings(max_examples=50, deadline=None)
@given(st.lists(policies, max_size=3), here, sides, callers, probes, protocols)
def test_allowed_agrees_with_the_oracle(several, pod, direction, who, port, protocol):
    expected = oracle(several, pod, direction, who, port, protocol)
    assert is_allowed(several, pod, direction, who, port, protocol) is expected


@st.composite
def narrowed(draw, made):
    """Return a more restrictive policy: some rules are removed, others reduced."""
    spec = made["spec"]
    rules_ = {}
    for key, side in (("ingress", "from"), ("egress", "to")):
        kept = [dict(rule) for rule in spec[key] if draw(st.booleans())]
        for rule in kept:
            rule.update({s: rule[s][:1] for s in (side, "ports") if rule.get(s)})
            if not rule.get("ports") and draw(st.booleans()):
                rule["ports"] = [draw(ports)]
        rules_[key] = kept
    return policy("other", spec["podSelector"], policyTypes=["Ingress", "Egress"], **rules_)


def world():
    """Return all peers of a small cluster: each address, and pods of each kind."""
    yield from (Peer(ip=ip) for ip in WORLD_ADDRESSES)
    kinds = [{}, *({"app": a} for a in LABELS), *({"app": a, "env": "a"} for a in LABELS)]
    for namespace in ("demo", "a"):
        for labels in kinds:
            for env in ({}, {"env": "a"}, {"env": "b"}, {"app": "a"}):
                named = [
                    {"name": "http", "containerPort": 80},
                    {"name": "dns", "containerPort": 81},
                ]
                yield Peer(pod=a_pod(namespace, named, **labels), namespace_labels=env)


WORLD = list(world())


@settings(max_examples=40, deadline=None)
@given(st.data(), here, sides)
def test_a_policy_that_is_not_less_restrictive_allows_nothing_more(data, pod, direction):
    own = data.draw(policies)
    own["metadata"]["name"] = "own"
    own["spec"].update(podSelector={}, policyTypes=["Ingress", "Egress"])
    other = data.draw(st.one_of(policies, narrowed(own)))
    if find_less_restrictive(own, [other], pod, {direction}) is not None:
        return
    if not applies_to(other, pod) or direction not in policy_types(other):
        return
    for who in WORLD:
        for port, protocol in ((78, "TCP"), (80, "TCP"), (81, "UDP"), (81, "TCP"), (83, "TCP")):
            if is_allowed([other], pod, direction, who, port, protocol):
                assert is_allowed([own], pod, direction, who, port, protocol), (who, port, protocol)


only_blocks = st.lists(
    st.fixed_dictionaries(
        {"to": st.lists(st.fixed_dictionaries({"ipBlock": blocks}), min_size=1, max_size=3)},
        optional={
            "ports": st.lists(
                st.fixed_dictionaries({"port": numbers}, optional={"endPort": numbers}), max_size=2
            )
        },
    ),
    max_size=3,
)


@settings(max_examples=25, deadline=None)
@given(only_blocks, only_blocks)
def test_for_addresses_and_port_numbers_the_comparison_is_exact(mine, theirs):
    own, other = egress(*mine, name="own"), egress(*theirs)
    known = ["0.0.0.0", "10.0.0.255", "255.255.255.255", "::", "fd00::ffff", "ff::"]
    more = [
        (ip, port, protocol)
        for ip in [*WORLD_ADDRESSES, *known]
        for port, protocol in [*((n, "TCP") for n in range(77, 84)), (80, "UDP"), (0, "ICMP")]
        if is_allowed([other], NGINX, "Egress", Peer(ip=ip), port, protocol)
        and not is_allowed([own], NGINX, "Egress", Peer(ip=ip), port, protocol)
    ]
    assert is_wider(own, other) is bool(more), more


@settings(max_examples=40, deadline=None)
@given(policies, here)
def test_no_policy_is_less_restrictive_than_itself(made, pod):
    twin = {**made, "metadata": {"name": "twin", "namespace": "demo"}}
    assert find_less_restrictive(made, [twin], pod, {"Ingress", "Egress"}) is None


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(CIDRS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def spoilt(draw, whole):
    """Replace one part of a value with an unexpected value."""
    if isinstance(whole, dict) and whole and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(whole)))
        return {**whole, key: draw(spoilt(whole[key]))}
    if isinstance(whole, list) and whole and draw(st.integers(0, 4)):
        at = draw(st.integers(0, len(whole) - 1))
        return [*whole[:at], draw(spoilt(whole[at])), *whole[at + 1 :]]
    return draw(odd)


@settings(max_examples=40, deadline=None)
@given(st.data(), policies, odd)
def test_invalid_policies_and_pods_never_raise(data, made, strange):
    broken = data.draw(spoilt(made))
    pod = data.draw(st.one_of(here, st.just(strange), spoilt(NGINX)))
    peer = Peer(ip=data.draw(st.one_of(st.none(), st.text(max_size=5))), pod=pod)
    for direction in ("Ingress", "Egress"):
        is_allowed([broken, made, None], pod, direction, peer, 80)
        find_less_restrictive(made, [broken, None], pod, {direction})
        find_less_restrictive(broken, [made], pod, {direction})
    policy_types(broken)


def test_a_lone_surrogate_is_not_a_port_name():
    assert not reaches([egress({"ports": [{"port": "\ud800"}]})], Peer(ip="8.8.8.8"), 80)
