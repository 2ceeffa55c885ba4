"""Listeners on real sockets: TLS renewal, client certificates, timeouts and eviction."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import select
import socket
import ssl
import subprocess
import sys

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from engine.server.connection_limits import Limits
from engine.server.listener import Listener, allow_files
from engine.server.messages import Request
from engine.server.sender_auth import ClientCertificates
from engine.server.tls import Certificates
from tests.cluster.keys import LOOPBACK, pem, unsigned, write_certificate
from tests.server.test_connection import Echo, post

QUICK = Limits(sweep=0.01)


class Authority:
    """A certificate authority that writes certificates into a folder."""

    def __init__(self, folder, name):
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name.from_rfc4514_string("CN=tests-ca")
        ca = unsigned(subject, self.key, self.key, is_authority=True)
        self.file = self.write(f"{name}.crt", ca)

    def write(self, name, builder):
        file = self.folder / name
        write_certificate(file, builder, self.key)
        return file

    def pair(self, name):
        """Write a certificate and its key like the kubelet. Return their paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name.from_rfc4514_string(f"CN={name}")
        builder = unsigned(subject, key, self.key, is_authority=False)
        cert = self.write(f"{name}.crt", builder.add_extension(LOOPBACK, critical=False))
        key_file = self.folder / f"{name}.key"
        key_file.write_bytes(pem(key))
        return cert, key_file


@contextlib.asynccontextmanager
async def listening(certificates=None, limits=QUICK):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Listener(Echo(), listener, certificates, limits)
        await made.start()
        made.address = listener.getsockname()[:2]
        try:
            yield made
        finally:
            await made.stop(1)


def trusting(authority, pair=None):
    context = ssl.create_default_context(cafile=authority.file)
    if pair:
        context.load_cert_chain(*pair)
    return context


async def ask(listener, context=None, said=None):
    """Send a request. Return the status, and the common name of the server."""
    reader, writer = await asyncio.open_connection(*listener.address, ssl=context)
    writer.write(said or post())
    await writer.drain()
    line = await reader.readline()
    name = None
    if context:
        (name,) = [
            v for ((k, v),) in writer.get_extra_info("peercert")["subject"] if k == "commonName"
        ]
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return (int(line.split()[1]) if line else None), name


def play(scene):
    """Run a scene in the event loop of the engine."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scene())


def swap(folder, **files):
    """Replace files by others with a rename."""
    for place, file in files.items():
        copy = folder / "swap"
        copy.write_bytes(file.read_bytes())
        copy.replace(folder / place.replace("_", "."))


async def until(listener, seen, context):
    """Send requests until the listener uses the certificate with that name."""
    async with asyncio.timeout(20):
        while (await ask(listener, context))[1] != seen:
            pass


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path, "ca")


def test_a_renewed_certificate_is_used_and_open_connections_stay(tmp_path, authority):
    one, two = authority.pair("one"), authority.pair("two")
    swap(tmp_path, tls_crt=one[0], tls_key=one[1])
    certificates = Certificates(tmp_path / "tls.crt", tmp_path / "tls.key")

    async def scene():
        async with listening(certificates) as listener:
            context = trusting(authority)
            reader, writer = await asyncio.open_connection(*listener.address, ssl=context)
            assert await ask(listener, context) == (200, "one")
            swap(tmp_path, tls_crt=two[0], tls_key=two[1])
            await until(listener, "two", context)
            writer.write(post())
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            writer.close()

    play(scene)


def test_a_mismatched_pair_keeps_the_last_valid_one_in_use(tmp_path, authority):
    one, two = authority.pair("one"), authority.pair("two")
    swap(tmp_path, tls_crt=one[0], tls_key=one[1])
    certificates = Certificates(tmp_path / "tls.crt", tmp_path / "tls.key")
    good = certificates.context()
    swap(tmp_path, tls_crt=two[0])
    assert certificates.context() is good
    swap(tmp_path, tls_key=two[1])
    assert certificates.context() is not good


def test_only_certificates_of_the_authority_give_access(tmp_path, authority):
    clients, strangers = Authority(tmp_path, "clients"), Authority(tmp_path, "strangers")
    (tmp_path / "client.ca").write_bytes(clients.file.read_bytes())
    certificates = Certificates(*authority.pair("one"), tmp_path / "client.ca")
    good, bad = clients.pair("falco"), strangers.pair("eve")

    async def refused(listener, pair):
        try:
            return (await ask(listener, trusting(authority, pair)))[0] is None
        except (ssl.SSLError, ConnectionError):
            return True

    async def scene():
        async with listening(certificates) as listener:
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            assert (await ask(listener, trusting(authority, good)))[0] == 200
            assert await refused(listener, None)
            assert await refused(listener, bad)
            swap(tmp_path, client_ca=strangers.file)
            async with asyncio.timeout(20):
                while await refused(listener, bad):
                    pass
            assert await refused(listener, good)

    play(scene)


@pytest.mark.parametrize("content", [None, "", "# no certificate\n", "another"])
def test_a_removed_authority_closes_the_port_also_for_open_connections(
    tmp_path, authority, content
):
    one, two = authority.pair("one"), authority.pair("two")
    swap(tmp_path, tls_crt=one[0], tls_key=one[1], client_ca=authority.file)
    files = [tmp_path / name for name in ("tls.crt", "tls.key", "client.ca")]
    certificates = Certificates(*files)
    access = ClientCertificates(certificates)
    assert access.reject(Request(b"POST", b"/", {})) is None
    if content is None:
        for file in files:  # like a deleted Secret
            file.unlink()
    elif content == "another":  # the pair is invalid too, so that no context trusts the authority
        swap(tmp_path, client_ca=Authority(tmp_path, "strangers").file, tls_key=two[1])
    else:
        files[2].write_text(content)
    reply = access.reject(Request(b"POST", b"/", {}))
    assert (reply.status, set(json.loads(reply.body))) == (401, {"error", "hint"})
    swap(tmp_path, tls_crt=one[0], tls_key=one[1], client_ca=authority.file)
    assert access.reject(Request(b"POST", b"/", {})) is None


def test_mismatched_files_are_an_error_at_the_start(tmp_path, authority):
    one, two = authority.pair("one"), authority.pair("two")
    with pytest.raises(ValueError, match=r"two\.key does not match"):
        Certificates(one[0], two[1])
    with pytest.raises(ValueError, match="are not a PEM certificate"):
        Certificates(one[1], one[1])
    with pytest.raises(ValueError, match="not a PEM file of certificates"):
        Certificates(*one, one[1])
    with pytest.raises(FileNotFoundError):
        Certificates(tmp_path / "gone", one[1])


def test_plain_text_on_a_tls_port_does_not_affect_others(authority):
    certificates = Certificates(*authority.pair("one"))

    async def scene():
        async with listening(certificates) as listener:
            told = []
            asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))
            reader, writer = await asyncio.open_connection(*listener.address)
            writer.write(post())
            assert await reader.read() == b""
            writer.close()
            assert (await ask(listener, trusting(authority)))[0] == 200
            assert all(isinstance(what.get("exception"), OSError) for what in told)

    play(scene)


def test_incomplete_requests_time_out_while_others_are_answered():
    limits = Limits(head=0.3, sweep=0.01, connections=60)

    async def scene():
        async with listening(limits=limits) as listener:
            slow = [await asyncio.open_connection(*listener.address) for _ in range(50)]
            for _, writer in slow:
                writer.write(b"POST /events HTTP/1.1\r\nhost: t\r\n")
            assert (await ask(listener))[0] == 200
            for reader, writer in slow:
                assert b"408" in await reader.readline()
                writer.close()
            assert listener.shared.timed_out == 50
            assert (await ask(listener))[0] == 200

    play(scene)


def test_an_endless_handshake_times_out(authority):
    certificates = Certificates(*authority.pair("one"))

    async def scene():
        async with listening(certificates, Limits(head=0.05, sweep=0.01)) as listener:
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            reader, writer = await asyncio.open_connection(*listener.address)
            async with asyncio.timeout(20):
                assert await reader.read() == b""
            writer.close()

    play(scene)


def test_a_rejection_arrives_while_the_sender_continues_to_send():
    async def scene():
        async with listening() as listener:
            reader, writer = await asyncio.open_connection(*listener.address)
            writer.write(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 9999999\r\n\r\n")
            for _ in range(20):
                writer.write(b"x" * 100_000)
            assert b"413" in await reader.readline()
            writer.close()

    play(scene)


def test_shutdown_answers_open_requests_and_refuses_new_connections():
    async def scene():
        async with listening() as listener:
            reader, writer = await asyncio.open_connection(*listener.address)
            writer.write(post().replace(b"/events", b"/later"))
            port = listener.shared.port
            await port.came.wait()
            stopping = asyncio.ensure_future(listener.stop(20))
            await asyncio.sleep(0)
            port.later.pop()()
            assert b"200" in await reader.readline()
            await stopping
            writer.close()
            assert not listener.shared.members

    play(scene)


async def silent(listener, number):
    """Open connections that send nothing."""
    return [await asyncio.open_connection(*listener.address) for _ in range(number)]


async def count(listener, number):
    """Wait until ``number`` connections are open and none waits to be accepted."""
    async with asyncio.timeout(20):
        waits = select.poll()
        waits.register(listener._socket, select.POLLIN)
        while len(listener.shared.members) != number or waits.poll(0):  # noqa: ASYNC110 - its own turns
            await asyncio.sleep(0)


async def heads(listener):
    """Wait until each connection has a complete head."""
    async with asyncio.timeout(20):
        while listener.shared.evictable:  # noqa: ASYNC110 - its own turns
            await asyncio.sleep(0)


@pytest.mark.parametrize("tls", [True, False])
def test_silent_connections_are_evicted_oldest_first(authority, tls):
    certificates = Certificates(*authority.pair("one")) if tls else None

    async def scene():
        async with listening(certificates, Limits(connections=4, sweep=0.01)) as listener:
            opened = []
            for number in range(24):
                opened += await silent(listener, 1)
                await count(listener, min(number + 1, 4))
            async with asyncio.timeout(20):
                for reader, _ in opened[:20]:
                    assert await reader.read() == b""
            assert (listener.shared.evicted, listener.shared.refused) == (20, 0)
            context = trusting(authority) if tls else None
            assert (await ask(listener, context))[0] == 200
            for _, writer in opened:
                writer.close()
            await count(listener, 0)

    play(scene)


@pytest.mark.parametrize("limits", [{"connections": 4}, {"per_peer": 4}])
def test_connections_with_a_complete_head_stay_and_new_ones_are_refused(limits):
    async def scene():
        async with listening(limits=Limits(sweep=0.01, **limits)) as listener:
            kept = await silent(listener, 4)
            for _, writer in kept:
                writer.write(post()[:-1])
            await heads(listener)
            assert await ask(listener) == (503, None)
            for reader, writer in kept:
                writer.write(b"}")
                assert b"200" in await reader.readline()
                writer.close()
            assert (listener.shared.evicted, listener.shared.refused) == (0, 1)

    play(scene)


def test_one_address_cannot_use_all_connections():
    limits = Limits(connections=10, per_peer=3, sweep=0.01)

    async def scene():
        async with listening(limits=limits) as listener:
            other = await asyncio.open_connection(*listener.address, local_addr=("127.0.0.2", 0))
            await count(listener, 1)
            greedy = []
            for number in range(20):
                greedy += await silent(listener, 1)
                await count(listener, min(number + 1, 3) + 1)
            other[1].write(post())
            assert b"200" in await other[0].readline()
            for _, writer in [other, *greedy]:
                writer.close()

    play(scene)


def test_reserved_connections_serve_only_urgent_requests():
    limits = Limits(connections=4, reserved=2, sweep=0.01)
    urgent = post().replace(b"/events", b"/urgent")

    async def scene():
        async with listening(limits=limits) as listener:
            kept = await silent(listener, 2)
            for _, writer in kept:
                writer.write(post()[:-1])
            await heads(listener)
            assert [(await ask(listener, said=said))[0] for said in (post(), urgent)] == [503, 200]
            for _, writer in kept:
                writer.close()

    play(scene)


def test_a_refused_client_reads_the_reason_after_it_sent_a_request():
    async def scene():
        async with listening(limits=Limits(connections=0, sweep=0.01)) as listener:
            for _ in range(50):
                assert await ask(listener) == (503, None)

    play(scene)


def test_a_failed_handshake_is_no_longer_counted(authority):
    certificates = Certificates(*authority.pair("one"))

    async def scene():
        async with listening(certificates, Limits(connections=2, sweep=0.01)) as listener:
            for _ in range(5):
                reader, writer = await asyncio.open_connection(*listener.address)
                writer.write(post())
                assert await reader.read() == b""
                writer.close()
                await count(listener, 0)
            assert (await ask(listener, trusting(authority)))[0] == 200

    play(scene)


def test_shutdown_does_not_wait_for_handshakes(authority):
    certificates = Certificates(*authority.pair("one"))

    async def scene():
        async with listening(certificates) as listener:
            ((reader, writer),) = await silent(listener, 1)
            await count(listener, 1)
            async with asyncio.timeout(5):
                await listener.stop(20)
            assert await reader.read() == b""
            writer.close()
            with pytest.raises(ConnectionRefusedError):
                await silent(listener, 1)

    play(scene)


def test_a_connection_without_a_free_descriptor_is_accepted_later():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scene():
        async with listening() as listener:
            with socket.socket() as sender:
                sender.setblocking(False)
                least = os.dup(0)
                os.close(least)
                resource.setrlimit(resource.RLIMIT_NOFILE, (least, hard))
                try:
                    await asyncio.get_running_loop().sock_connect(sender, listener.address)
                    await asyncio.get_running_loop().sock_sendall(sender, post())
                    for _ in range(9):  # let the loop accept
                        await asyncio.sleep(0)
                    assert not listener.shared.members
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                said = await asyncio.get_running_loop().sock_recv(sender, 12)
                assert said == b"HTTP/1.1 200"

    play(scene)


@pytest.fixture
def files():
    """Set the soft limit of open files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda soft: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_of_open_files_is_raised_to_the_hard_limit(files):
    files(300)
    assert [
        one.connections for one in allow_files(Limits(connections=900), Limits(connections=100))
    ] == [900, 100]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 1500
    assert allow_files(Limits(connections=10)) == (Limits(connections=10),)
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 1500


def test_few_allowed_files_mean_fewer_connections_and_spare_files():
    script = """
import resource
from engine.server.listener import Limits, allow_files
for hard in (4096, 1100, 400):
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
    print(*[one.connections for one in allow_files(Limits(connections=3000), Limits(connections=1000))])
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert said.stdout.splitlines() == [b"2688 896", b"441 147", b"150 50"]
