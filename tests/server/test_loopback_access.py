"""Access to a port without credentials: only for programs on the same machine."""

from __future__ import annotations

import json

import pytest
from engine.server.loopback_access import LoopbackOnly
from engine.server.messages import Request
from tests.support.engine import call, engine
from tests.support.intake import FALCO, PLAYBOOK

HERE = ("127.0.0.1", 40000)


def refusal(client=HERE, **headers):
    given = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return LoopbackOnly("give tokens").reject(Request(b"POST", b"/", given, client))


HOSTS = (
    b"localhost", b"localhost:8080", b"LocalHost", b"localhost.", b"localhost.:80", b"127.0.0.1",
    b"127.0.0.1:8080", b"127.0.0.2", b"[::1]", b"[::1]:8080", b"[0:0:0:0:0:0:0:1]",
    b"[::FFFF:127.0.0.1]:1", b"localhost:",
)  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_a_loopback_host_gives_access(host):
    assert refusal(host=host) is None


FOREIGN_HOSTS = (
    b"", b"evil.example.com", b"evil.example.com:8081", b"localhost.evil.example.com", b"evillocalhost",
    b"localhost@evil.example.com", b"evil.example.com@localhost", b"127.0.0.1.nip.io", b"0.0.0.0", b"[::]",
    b"10.0.0.1", b"2130706433", b"0x7f.0.0.1", b"127.1", b"127.0.0.1.", b"127.0.0.1:80:80", b"::1",
    b"[::1", b"[fe80::1]", b"localhost:80x", b"localhost, evil.example.com", b"localhost evil.example.com",
    b"localhost/evil", b"\xe2\x93\x9bocalhost", b"localhost\n", b"127.0.0.1\0", b"tiercel.falco.svc",
)  # fmt: skip


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_any_other_host_is_403(host):
    reply = refusal(host=host)
    assert reply.status == 403
    assert set(json.loads(reply.body)) == {"error", "hint"}


def test_without_a_host_it_is_403():
    assert refusal().status == 403


CLIENTS = [
    None, ("", 1), "", ("127.0.0.2", 1), ("127.0.0.6", 1), ("10.1.2.3", 1), ("0.0.0.0", 1),
    ("::", 1), ("::ffff:127.0.0.6", 1), ("::ffff:10.0.0.1", 1), ("fe80::1", 1), ("localhost", 1),
]  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS)
def test_other_peer_addresses_are_403(client):
    assert refusal(client, host=b"localhost").status == 403


@pytest.mark.parametrize("client", [HERE, ("::1", 4, 0, 0), ("::ffff:127.0.0.1", 4, 0, 0)])
def test_loopback_peer_addresses_give_access(client):
    assert refusal(client, host=b"localhost") is None


PAGES = [
    {"origin": b"http://evil.example.com"},
    {"origin": b"null"},
    {"origin": b""},
    {"origin": b"http://localhost:8080"},
    {"sec_fetch_site": b"cross-site"},
    {"sec_fetch_mode": b"no-cors"},
    {"sec_fetch_dest": b"image"},
]


@pytest.mark.parametrize("headers", PAGES)
def test_requests_of_a_browser_for_a_web_page_are_403(headers):
    assert refusal(host=b"localhost", **headers).status == 403


PAGE = {"Origin": "http://evil.example.com", "Content-Type": "text/plain"}


@pytest.mark.parametrize("open_to_all", [False, True])
def test_an_engine_rejects_web_pages_on_both_ports(tmp_path, open_to_all):
    flags = ["--dry-run", *(["--insecure-no-auth"] if open_to_all else [])]
    event = json.dumps(FALCO).encode()
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, *flags) as running:
        for headers in (PAGE, {"Host": "evil.example.com"}):
            assert call(running.admin, "GET", "/status", headers=headers)[0] == 403
            assert call(running.admin, "GET", "/livez", headers=headers)[0] == 200
            status = call(running.events, "POST", "/", event, headers)[0]
            assert status == (202 if open_to_all else 403)
        for source, status in (("127.0.0.6", 202 if open_to_all else 403), ("127.0.0.1", 202)):
            assert running.post(FALCO, source=source)[0] == status
        assert call(running.admin, "GET", "/status", source="127.0.0.6")[0] == 403
        assert call(running.admin, "GET", "http://evil.example.com/status")[0] == 403
        assert call(running.admin, "GET", "/status")[0] == 200
