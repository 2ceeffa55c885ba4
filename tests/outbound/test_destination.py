"""URLs: parsing, the list of hosts, and the check of addresses."""

from __future__ import annotations

import socket

import pytest
from engine.model.errors import RefusedError, SettingsError
from engine.outbound import connections
from engine.outbound.destination import address_check, check_host, parse_url
from engine.runtime.settings import host_list

WILD = frozenset({"*.example.com"})


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("HTTP://Ops.Example.COM", "http://ops.example.com:80/"),
        ("https://ops.example.com./a?b=%2F#c", "https://ops.example.com:443/a?b=%2F"),
        ("https://ops.example.com:8443?x=1", "https://ops.example.com:8443/?x=1"),
        ("http://bücher.example.com/", "http://xn--bcher-kva.example.com:80/"),
        ("http://[::1]:9000/", "http://[::1]:9000/"),
        ("http://[0:0::1]/", "http://[::1]:80/"),
        ("http://[::ffff:127.0.0.1]/", "http://127.0.0.1:80/"),
    ],
)
def test_a_url_has_one_canonical_form(url, parsed):
    assert parse_url(url).url == parsed
    assert parse_url(parsed).url == parsed


@pytest.mark.parametrize(
    "url",
    [
        r"http://2130706433\.example.com/",
        r"http://evil.test\.example.com/",
        r"http://evil.test\@ops.example.com/",
        "http://evil.test%5c.example.com/",
        "http://evil.test%2f.example.com/",
        "http://evil.test\t.example.com/",
        "http://evil.test\n.example.com/",
        "http://evil.test\x00.example.com/",
        "http://evil_.example.com/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.0.0.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://1.2.3.4.5/",
        "http://a..example.com/",
        "http://[fe80::1%25eth0]/",
        "http://[::1/",
        "http://::1/",
        "http://user:canary@ops.example.com/",
        "http://ops.example.com:0/",
        "http://ops.example.com:65536/",
        "http://ops.example.com:80:80/",
        "http://ops.example.com/\u00e9",
        "http://ops.example.com/a b",
        "ops.example.com",
        "//ops.example.com/",
        "http:///ops.example.com",
        "ftp://ops.example.com/",
        "",
    ],
)
def test_ambiguous_urls_are_refused(url):
    with pytest.raises(RefusedError) as caught:
        parse_url(url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "hosts", "allowed"),
    [
        ("http://ops.example.com/", WILD, True),
        ("http://a.ops.example.com/", WILD, False),
        ("http://example.com/", WILD, False),
        ("http://10.0.0.1/", frozenset({"*.0.0.1"}), False),
        ("https://ops.example.com/", frozenset({"ops.example.com:443"}), True),
        ("http://ops.example.com/", frozenset({"ops.example.com:443"}), False),
        ("http://[::1]:9000/", frozenset({"[::1]:9000"}), True),
        ("http://[::1]:9000/", frozenset({"::1"}), True),
        ("http://ops.example.com/", frozenset(), False),
        ("http://ops.example.com/", None, True),
    ],
)
def test_a_host_must_be_in_the_list(url, hosts, allowed):
    if allowed:
        check_host(parse_url(url), hosts)
        return
    with pytest.raises(RefusedError, match="--http-hosts"):
        check_host(parse_url(url), hosts)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
    ],
)
def test_addresses_of_metadata_servers_are_refused_unless_the_list_contains_them(address):
    with pytest.raises(RefusedError, match="--http-hosts"):
        address_check(WILD)(address, 80)
    named = {"169.254.169.254", "fe80::1", "::", "fd00:ec2::254", "169.254.170.2:80"}
    named |= {"100.100.100.200", "168.63.129.16", "0.0.0.0"}
    address_check(frozenset(named))(address, 80)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "::1", "2001:db8::1", "fd00::1"])
def test_other_addresses_are_allowed(address):
    address_check(WILD)(address, 80)


def test_a_name_that_resolves_to_a_refused_address_is_not_connected(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        places = [("127.0.0.1", port), ("169.254.169.254", port)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", place) for place in places]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with pytest.raises(RefusedError, match=r"169\.254\.169\.254"):
            connections.dial(("a.example.com", port), 5, check=address_check(WILD))


def test_a_name_is_resolved_once_and_the_checked_address_is_used(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        answers = ["127.0.0.1", "169.254.169.254"]

        def rebinding(*_, **__):
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (answers.pop(0), port))]

        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        with connections.dial(("a.example.com", port), 5, check=address_check(WILD)) as made:
            assert made.getpeername() == ("127.0.0.1", port)
        assert answers == ["169.254.169.254"]


def test_the_list_of_hosts_is_converted_to_canonical_form():
    listed = "Ops.Example.com., *.EXAMPLE.com,bücher.example,[::1]:9000, ::1,10.0.0.1:80,"
    assert host_list(listed) == {
        "ops.example.com", "*.example.com", "xn--bcher-kva.example", "[::1]:9000", "::1", "10.0.0.1:80",
    }  # fmt: skip
    assert host_list(None) is None
    for entry in (
        "https://ops.example.com",
        "*",
        "a_b",
        "ops.example.com/x",
        "*.a:80",
        "127.1",
        "a b",
    ):
        with pytest.raises(SettingsError, match="--http-hosts"):
            host_list(entry)
