"""Stand-ins on loopback for services of notify.send: Discord, Telegram, Teams, PagerDuty, and a mail server.

``Services`` is a proxy for CONNECT that ends TLS itself with a certificate of the test CA for the names of the
services. So the real URLs of the services are used. Each service checks a request as its documentation says,
and answers 400 if the request is not valid.
"""

from __future__ import annotations

import contextlib
import html.parser
import json
import re
import socketserver
import ssl
import threading
from urllib.parse import parse_qs, urlsplit

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.cluster.keys import LOOPBACK, SERVER, make_keys, pem, unsigned, write_certificate

HOSTS = (
    "discord.com",
    "api.telegram.org",
    "prod-1.westeurope.logic.azure.com",
    "events.pagerduty.com",
)


def make_certificate(folder):
    """Write ca.crt, and services.crt and services.key for the names of the services and for 127.0.0.1."""
    make_keys(folder)
    authority = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([*map(x509.DNSName, HOSTS), *LOOPBACK])
    own = unsigned(SERVER, key, authority, is_authority=False)
    write_certificate(folder / "services.crt", own.add_extension(names, critical=False), authority)
    (folder / "services.key").write_bytes(pem(key))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "services.crt", folder / "services.key")
    return context


class Services(socketserver.ThreadingTCPServer):
    """asked: (host, path with query, headers, JSON) of the valid requests.

    answer: in place of the service's answer.
    """

    daemon_threads = True

    def __init__(self, context):
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.context, self.asked, self.faults, self.answer = context, [], [], None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def respond(self, host, path, headers, body):
        if self.answer is not None:
            self.asked.append((host, path, headers, body))
            return self.answer
        data = json.loads(body)
        status, said, fault = SERVICES[host](urlsplit(path), headers, data)
        if fault:
            self.faults.append(fault)
            return b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
        self.asked.append((host, path, headers, data))
        text = json.dumps(said).encode() if said is not None else b""
        return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
            status, len(text), text,
        )  # fmt: skip


class _Tunnel(socketserver.StreamRequestHandler):
    def handle(self):
        first = self.rfile.readline().split()
        if not first or first[0] != b"CONNECT":
            return
        while self.rfile.readline().strip():
            pass
        host = first[1].decode().rpartition(":")[0]
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with (
            contextlib.suppress(OSError),
            self.server.context.wrap_socket(self.request, server_side=True) as tls,
            tls.makefile("rb") as stream,
        ):
            while line := stream.readline():
                _, path, _ = line.decode().split()
                headers = {}
                while header := stream.readline().decode().strip():
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                body = stream.read(int(headers.get("content-length", 0)))
                tls.sendall(self.server.respond(host, path, headers, body))


def discord(url, headers, data):
    """Discord, Execute Webhook: a content of at most 2,000 characters.

    Mentions are those that its clients show.
    """
    if not re.fullmatch(r"/api/webhooks/\d{10,}/[\w-]{20,}", url.path):
        return 0, None, "path"
    content = data.get("content") or ""
    if (
        not 0 < len(content) <= 2000
        or headers["content-type"].partition(";")[0] != "application/json"
    ):
        return 0, None, "content"
    return 204, None, None


class _TelegramHtml(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.faults, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("b", "strong", "i", "em", "u", "s", "a", "code", "pre"):
            self.faults.append(tag)
        if tag == "a":
            self.links.append(attrs)


def telegram(url, headers, data):
    """Telegram, Bot API sendMessage: chat_id, a text of at most 4,096 characters, valid HTML without links."""
    del headers
    if not re.fullmatch(r"/bot\d+:[\w-]{30,}/sendMessage", url.path) or not data.get("chat_id"):
        return 0, None, "path or chat_id"
    parsed = _TelegramHtml(data["text"]) if data.get("parse_mode") == "HTML" else None
    if not 0 < len(data["text"]) <= 4096 or (parsed and (parsed.faults or parsed.links)):
        return 0, None, "text"
    return 200, {"ok": True, "result": {"message_id": 7}}, None


def teams(url, headers, data):
    """A workflow of Power Automate that posts an Adaptive Card. The signature is a parameter of the URL."""
    del headers
    query = parse_qs(url.query)
    if (
        not re.fullmatch(r"/workflows/\w+/triggers/manual/paths/invoke", url.path)
        or "sig" not in query
    ):
        return 0, None, "path or signature"
    (attachment,) = data["attachments"]
    card = attachment["content"]
    if (
        data["type"] != "message"
        or card["type"] != "AdaptiveCard"
        or card.get("msteams", {}).get("entities")
    ):
        return 0, None, "card"
    if not all(
        block["type"] in ("TextBlock", "Image", "Container", "ColumnSet") for block in card["body"]
    ):
        return 0, None, "body"
    return 202, None, None


def pagerduty(url, headers, data):
    """PagerDuty, Events API v2: a routing key of 32 characters, and a summary of at most 1,024."""
    del headers
    inner = data.get("payload", {})
    if url.path != "/v2/enqueue" or len(data.get("routing_key", "")) != 32:
        return 0, None, "path or routing key"
    if data.get("event_action") != "trigger" or not 0 < len(inner.get("summary", "")) <= 1024:
        return 0, None, "action or summary"
    if inner.get("severity") not in ("critical", "error", "warning", "info") or not inner.get(
        "source"
    ):
        return 0, None, "severity or source"
    return 202, {"status": "success", "message": "Event processed", "dedup_key": "k"}, None


SERVICES = dict(zip(HOSTS, (discord, telegram, teams, pagerduty), strict=True))


class Mailbox:
    """The handler of a mail server: the accepted messages with their envelopes.

    refuse: answers to RCPT by address.
    """

    def __init__(self):
        self.mails, self.logins, self.refuse = [], [], {}

    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):  # noqa: N802 - aiosmtpd
        del server, session, rcpt_options
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - aiosmtpd
        del server
        encrypted = session.ssl is not None
        self.mails.append(
            (envelope.mail_from, list(envelope.rcpt_tos), envelope.content, encrypted)
        )
        return "250 OK"

    def authenticate(self, server, session, envelope, mechanism, data):
        del server, session, envelope, mechanism
        self.logins.append((data.login.decode(), data.password.decode()))
        return AuthResult(success=data.password == b"canary-password", handled=False)


@contextlib.contextmanager
def mail_server(context, **options):
    """A mail server that requires STARTTLS and then a login. Yields its Mailbox, with the attribute ``port``."""
    box = Mailbox()
    options = {"require_starttls": True, "auth_required": True, **options}
    controller = Controller(
        box, hostname="127.0.0.1", port=_free_port(), tls_context=context,
        authenticator=box.authenticate, **options,
    )  # fmt: skip
    controller.start()
    box.port = controller.port
    try:
        yield box
    finally:
        controller.stop()


def _free_port():
    with socketserver.TCPServer(("127.0.0.1", 0), None) as one:
        return one.server_address[1]


@contextlib.contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
