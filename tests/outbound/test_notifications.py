"""notify.send: real services of Apprise against stand-ins of their protocols, and what a service cannot do."""

from __future__ import annotations

import ast
import email
import email.policy
import importlib
import logging
import pathlib
import re
import socketserver

import apprise
import pytest
from engine.cluster.api import CallRecorder
from engine.cluster.simulated import AssumedCluster
from engine.execution.attempt import Clients, attempt
from engine.execution.guardrails import GuardrailChecker
from engine.language.folder import Files
from engine.model.errors import PermanentError, RefusedError, TemporaryError
from engine.model.event import parse_event
from engine.model.run import Claim
from engine.outbound import connections, notification_services
from engine.outbound.api import RequestRecorder
from engine.outbound.client import LiveHttpClient, Senders
from engine.outbound.plugin_guard import GuardError, guarded, sockets_allowed
from engine.outbound.secrets import Secrets
from engine.planning.matcher import PlaybookIndex
from engine.planning.planner import PlanningMemory, plan
from tests.language.test_loader import files, playbook
from tests.support.notification_services import (
    HOSTS,
    Services,
    mail_server,
    make_certificate,
    serving,
)
from tests.support.playbooks import new_loader

# A stand-in without TLS shows that no password is sent to it.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH:UserWarning")
NOW = 1_772_359_200.0
KEY = "canary" + "k" * 26
TOKENS = {
    "discord": f"discord://123456789012345678/{KEY}{KEY}",
    "telegram": f"tgram://123456789:{KEY}aaa/-1001234567",
    "teams": f"workflows://prod-1.westeurope.logic.azure.com:443/{KEY}/{KEY}",
    "pagerduty": f"pagerduty://{KEY}@{KEY}/tiercel/falco",
}
PASSWORD = "canary-password"
HOST = dict(zip(TOKENS, HOSTS, strict=True))
HOSTILE = (
    "@everyone @here <@123> <@&456> <!channel> <at>all</at> <a href='https://evil.example'>x</a> "
    "[x](https://evil.example) [y]: https://evil.example\nwww.evil.example\r\nBcc: eve@evil.example\r\n\r\n.\r\n"
    "MAIL FROM:<x> \u202e \x1b[31m & ``` *b*"
)


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    context = make_certificate(folder)
    context.ca = str(folder / "ca.crt")
    return context


@pytest.fixture
def services(tls, monkeypatch):
    with serving(Services(tls)) as one:
        monkeypatch.setenv("SSL_CERT_FILE", tls.ca)
        monkeypatch.setenv("HTTPS_PROXY", one.url)
        yield one


@pytest.fixture
def mail(tls, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", tls.ca)
    with mail_server(tls) as box:
        yield box


def mail_url(box, password=PASSWORD, more=""):
    return (
        f"mailtos://tiercel:{password}@example.com:{box.port}?smtp=127.0.0.1&from=tiercel@example.com"
        f"&to=soc@example.com,lead@example.com{more}"
    )


def client(tmp_path, url, timeout=30.0, hosts=frozenset()):
    (tmp_path / "to").write_text(url)
    return LiveHttpClient(Secrets(tmp_path), timeout=timeout, senders=Senders(hosts))


def send(outside, fields=None, **given):
    """Attempt a notify.send step; return the outcome."""
    given = {"to": {"fromSecret": "to"}, "title": "%rule", "body": "it says %proc.cmdline", **given}
    steps = [{"action": "notify.send", "with": given, "retry": {"attempts": 1}}]
    found = new_loader().load(Files("", files(p=playbook("p", actions=steps))))
    assert not found.errors, found.errors
    event = parse_event({"rule": "R", "output_fields": fields or {"proc.cmdline": "curl"}})
    (planned,) = plan(event, PlaybookIndex(found.playbooks), PlanningMemory())
    clients = Clients(CallRecorder(AssumedCluster(event)), RequestRecorder(outside), dry=False)
    return attempt(Claim(planned.run, 0, began=NOW), clients, GuardrailChecker(), NOW)


@pytest.mark.parametrize("name", TOKENS)
def test_a_service_accepts_the_message(services, tmp_path, name):
    outcome = send(client(tmp_path, TOKENS[name]))
    assert services.faults == []
    assert (outcome.state, outcome.message) == ("done", "to to: R: it says curl")
    ((host, path, _, data),) = services.asked
    assert host == HOST[name]
    assert KEY in f"{path}{data}"
    assert "it says curl" in str(data)
    assert outcome.requests[0].url == "***"


@pytest.mark.parametrize("name", TOKENS)
def test_an_event_creates_no_mention_and_no_link_and_a_long_one_is_cut(services, tmp_path, name):
    for text in (HOSTILE, HOSTILE * 200, "\u2028\u0000\U0001f600", "x" * 50_000):
        fields = {"proc.cmdline": text, "proc.name": text}
        outcome = send(
            client(tmp_path, TOKENS[name]), fields, body="%proc.cmdline" * 9, title="%proc.name"
        )
        assert outcome.state == "done", (services.faults, outcome)
        sent = str(services.asked[-1][3])
        for forbidden in (
            "@everyone",
            "@here",
            "<@",
            "<!",
            "<at>",
            "<a ",
            "](",
            "]:",
            "://evil",
            "www.evil",
        ):
            assert forbidden not in sent


def test_mail_goes_over_starttls_with_a_login_to_the_recipients_of_the_url_only(mail, tmp_path):
    outcome = send(
        client(tmp_path, mail_url(mail)),
        {"proc.cmdline": HOSTILE, "proc.name": HOSTILE},
        title="%proc.name",
    )
    assert outcome.state == "done", outcome
    assert set(mail.logins) == {("tiercel", "canary-password")}
    assert [mail_from for mail_from, *_ in mail.mails] == ["tiercel@example.com"] * 2
    assert sorted(to for _, (to,), *_ in mail.mails) == ["lead@example.com", "soc@example.com"]
    for _, (to,), content, encrypted in mail.mails:
        assert encrypted
        message = email.message_from_bytes(content, policy=email.policy.default)
        assert message["To"].addresses[0].addr_spec == to
        assert message["Bcc"] is message["Cc"] is None
        assert message["Subject"].startswith("@\u200beveryone")
        assert "\n" not in message["Subject"]
        assert "it says @\u200beveryone" in message.get_body(("plain",)).get_content()


def test_mail_with_tls_from_the_start(tls, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", tls.ca)
    with mail_server(None, require_starttls=False, ssl_context=tls, auth_require_tls=False) as box:
        outcome = send(client(tmp_path, mail_url(box, more="&mode=ssl")))
        assert outcome.state == "done", outcome
        assert len(box.mails) == 2


def test_a_mail_server_that_refuses_the_login_or_a_recipient_is_reported_without_the_password(
    mail, tmp_path
):
    outcome = send(client(tmp_path, mail_url(mail, "canary-wrong")))
    assert (outcome.state, outcome.message) == ("failed", "mailtos: answered 535")
    mail.refuse = {"lead@example.com": "550 no such user"}
    outcome = send(client(tmp_path, mail_url(mail)))
    assert (outcome.state, outcome.message) == ("failed", "mailtos: answered 550")
    mail.refuse = {"lead@example.com": "451 later"}
    outcome = send(client(tmp_path, mail_url(mail)))
    assert (outcome.state, outcome.message[-13:]) == ("failed", " answered 451")
    assert outcome.answered


def test_a_mail_server_without_starttls_or_with_another_certificate_gets_no_password(
    mail, tmp_path, monkeypatch
):
    with mail_server(None, require_starttls=False, auth_require_tls=False) as box:
        outcome = send(client(tmp_path, mail_url(box)))
        assert outcome.state == "failed"
        assert "STARTTLS" in outcome.message
        assert box.logins == box.mails == []
    monkeypatch.delenv("SSL_CERT_FILE")
    outcome = send(client(tmp_path, mail_url(mail)))
    assert (outcome.state, outcome.message) == ("waiting", "mailtos: SSLCertVerificationError")
    assert mail.logins == []


@pytest.mark.parametrize(
    ("status", "state", "answered"),
    [
        (b"401 X", "failed", False),
        (b"404 X", "failed", False),
        (b"500 X", "failed", True),
        (b"429 X\r\nRetry-After: 70", "waiting", False),
        (b"302 X\r\nLocation: http://169.254.169.254/latest/meta-data/", "failed", False),
        (b"307 X\r\nLocation: https://discord.com/other", "failed", False),
    ],
)
@pytest.mark.parametrize("name", TOKENS)
def test_the_answer_of_a_service_decides_and_redirects_are_not_followed(
    services, tmp_path, name, status, state, answered
):
    services.answer = b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status
    outcome = send(client(tmp_path, TOKENS[name]))
    assert (outcome.state, outcome.answered) == (state, answered), outcome
    assert status[:3].decode() in outcome.message
    assert {host for host, *_ in services.asked} == {HOST[name]}
    if state == "waiting":
        assert outcome.retry_in >= 70
    if status.startswith(b"30"):
        assert "redirects are not followed" in outcome.message


@pytest.mark.parametrize(
    ("name", "body", "fault"),
    [
        ("telegram", b'{"ok":false,"error_code":400,"description":"%b"}', "ok: false"),
        ("pagerduty", b'{"status":"invalid event","errors":["%b"]}', "status: invalid event"),
        (
            "teams",
            b"Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 413 %b",
            "endpoint returned HTTP error",
        ),
        ("discord", b'{"success":false,"%b":1}', "success: false"),
        ("discord", b'{"errcode":310000,"errmsg":"%b"}', "errcode: 310000"),
    ],
)
def test_an_error_in_the_body_of_a_200_is_a_failed_message(services, tmp_path, name, body, fault):
    said = body % KEY.encode()
    services.answer = b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said)
    outcome = send(client(tmp_path, TOKENS[name]))
    assert outcome.state == "failed", outcome
    assert outcome.message.endswith(f"answered 200 with an error in the body ({fault})")
    assert KEY not in outcome.message


@pytest.mark.parametrize("name", TOKENS)
def test_the_secrets_of_the_url_are_in_no_error_and_no_log(services, tmp_path, caplog, name):
    caplog.set_level(logging.DEBUG)
    repeated = TOKENS[name].encode()
    for answer in (
        b"HTTP/1.1 400 X\r\nContent-Length: %d\r\n\r\n%b" % (len(repeated), repeated),
        b"garbage\r\n\r\n",
        None,
    ):
        services.answer = answer
        outcome = send(client(tmp_path, TOKENS[name]))
        assert "canary" not in repr(outcome)
    tmp = client(tmp_path, TOKENS[name].replace("canary", "canary%20%0a"))
    assert "canary" not in repr(send(tmp))
    assert "canary" not in caplog.text


class Endless(socketserver.StreamRequestHandler):
    """Sends ``server.first`` and then ``server.again`` until the client leaves."""

    def handle(self):
        try:
            self.wfile.write(self.server.first)
            while True:
                self.wfile.write(self.server.again)
        except OSError:
            self.server.left.append(True)


def endless(first, again):
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Endless)
    server.first, server.again, server.left, server.daemon_threads = first, again, [], True
    return serving(server)


@pytest.mark.parametrize(
    ("url", "first", "again"),
    [
        ("json://127.0.0.1:{}/", b"HTTP/1.1 400 X\r\n\r\n", b"x" * 4096),
        ("json://127.0.0.1:{}/", b"HTTP/1.1 200 OK\r\n", b"X-More: x\r\n" * 100),
        (
            "mailto://127.0.0.1:{}?from=a@example.com&to=b@example.com",
            b"220 hello\r\n",
            b"250-more\r\n" * 100,
        ),
        ("mailto://127.0.0.1:{}?from=a@example.com&to=b@example.com", b"220-", b"x" * 4096),
    ],
)
def test_an_endless_answer_is_read_up_to_a_limit(tmp_path, url, first, again):
    with endless(first, again) as server:
        outcome = send(client(tmp_path, url.format(server.server_address[1])))
        assert outcome.state in ("failed", "waiting")
        assert outcome.message.split(":")[0] in ("json", "mailto")


@pytest.mark.parametrize(
    "url", ["json://127.0.0.1:{}/", "mailto://127.0.0.1:{}?from=a@example.com&to=b@example.com"]
)
def test_a_server_that_says_nothing_ends_at_the_timeout_of_the_step(tmp_path, url):
    with socketserver.TCPServer(("127.0.0.1", 0), None) as silent:
        outcome = send(client(tmp_path, url.format(silent.server_address[1]), timeout=0.2))
    assert outcome.state == "waiting"


@pytest.mark.parametrize(
    "url",
    [
        "json://169.254.169.254/",
        "json://[::ffff:169.254.169.254]/",
        "mailto://169.254.169.254?from=a@example.com&to=b@example.com",
        "ntfy://169.254.169.254/topic",
    ],
)
@pytest.mark.parametrize("proxy", [False, True])
def test_a_metadata_address_is_refused_also_with_a_proxy(
    services, tmp_path, monkeypatch, url, proxy
):
    if proxy:
        monkeypatch.setenv("HTTP_PROXY", services.url)
    outcome = send(client(tmp_path, url))
    assert outcome.state == "refused"
    assert "metadata" in outcome.message


def test_a_name_that_resolves_to_a_metadata_address_is_refused(tmp_path, monkeypatch):
    found = [(2, 1, 6, "", ("169.254.169.254", 80))]
    monkeypatch.setattr(connections.socket, "getaddrinfo", lambda *_, **__: found)
    for url in (
        "json://rebound.example/",
        "mailto://rebound.example?from=a@example.com&to=b@example.com",
    ):
        outcome = send(client(tmp_path, url))
        assert outcome.state == "refused", outcome
        assert "169.254.169.254" in outcome.message


@pytest.mark.parametrize(
    ("url", "error", "what"),
    [
        ("syslog://", RefusedError, "`syslog`"),
        ("dbus://", RefusedError, "`dbus`"),
        ("gnome://", RefusedError, "`gnome`"),
        ("macosx://", RefusedError, "`macosx`"),
        ("file:///etc/passwd", RefusedError, "`file`"),
        ("rsyslog://host", RefusedError, "`rsyslog`"),
        ("mqtt://host/topic", RefusedError, "`mqtt`"),
        (f"{TOKENS['discord']}?template=/etc/passwd", RefusedError, "`template`"),
        (f"{TOKENS['discord']}?%54emplate=/etc/passwd", RefusedError, "`template`"),
        (f"{TOKENS['telegram']}?verify=no", RefusedError, "verify"),
        ("mailtos://u:canary@example.com?pgp=sign&pgpprv=/etc/passwd", RefusedError, "`pgp`"),
        ("https://discord.com/api/webhooks/1/canary", RefusedError, "`https`"),
        ("canary", PermanentError, "not an Apprise URL"),
        ("discord://canary", PermanentError, "not a complete Apprise URL"),
        ("pagerduty://canary", PermanentError, "not a complete Apprise URL"),
        ("mailtos://", PermanentError, "not a complete Apprise URL"),
    ],
)
def test_a_url_of_another_service_or_with_local_files_is_refused_without_its_secrets(
    tmp_path, url, error, what
):
    outcome = send(client(tmp_path, url))
    assert outcome.state == {RefusedError: "refused", PermanentError: "failed"}[error], outcome
    assert what in outcome.message
    assert "canary" not in outcome.message


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"to": "mailto://u:p@example.com"}, "literal-secret"),
        ({"to": {"fromSecret": "a/b"}}, "bad-parameter"),
        ({"body": 7}, "bad-parameter"),
        ({"title": ["x"]}, "bad-parameter"),
        ({"body": "%steps.other.answer.id"}, "bad-template"),
        ({"attach": "/etc/passwd"}, "bad-parameter"),
    ],
)
def test_a_wrong_parameter_is_a_finding(given, code):
    steps = [{"action": "notify.send", "with": {"to": {"fromSecret": "to"}, "body": "b", **given}}]
    found = new_loader().load(Files("", files(p=playbook("p", actions=steps))))
    assert [error.code for error in found.errors] == [code]


def test_a_service_cannot_open_files_start_programs_or_open_sockets(tmp_path):
    file = tmp_path / "x"
    file.write_text("x")
    with guarded() as refused:
        for forbidden in (
            file.read_text,
            lambda: file.write_text("y"),
            lambda: pathlib.Path(connections.__file__).write_text(""),
            file.unlink,
            lambda: importlib.import_module("subprocess").run(["true"], check=False),
            lambda: importlib.import_module("os").system("true"),
            lambda: importlib.import_module("socket").create_connection(("127.0.0.1", 9)),
            lambda: importlib.import_module("ctypes").CDLL("libc.so.6"),
        ):
            with pytest.raises(GuardError):
                forbidden()
        assert len(refused) == 8
        importlib.import_module("colorsys")
        with sockets_allowed(), pytest.raises(OSError, match="refused"):
            importlib.import_module("socket").create_connection(("127.0.0.1", 9))
    assert file.read_text() == "x"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # AttachFile.__del__
def test_a_service_that_opens_a_file_is_refused_also_if_it_hides_the_error(
    services, tmp_path, monkeypatch
):
    monkeypatch.setattr(notification_services, "_LOCAL", frozenset())
    outcome = send(client(tmp_path, f"{TOKENS['discord']}?template=/etc/passwd"))
    assert (outcome.state, outcome.message) == (
        "refused",
        "discord: the service must not open a local file",
    )
    assert services.asked == []


LIBRARIES = {
    "requests", "smtplib", "ssl", "certifi", "cryptography",
    "__future__", "abc", "base64", "binascii", "calendar", "collections", "contextlib", "copy",
    "dataclasses", "datetime", "email", "enum", "functools", "gzip", "hashlib", "hmac", "html", "io",
    "itertools", "json", "logging", "math", "os", "random", "re", "secrets", "string", "sys", "textwrap",
    "time", "typing", "urllib", "uuid", "xml", "zoneinfo",
}  # fmt: skip
IMPORT = re.compile(r"^ *(?:import|from) +([a-z_0-9]+)", re.MULTILINE)


def imports(source):
    """The libraries that a source imports; empty if a quick look finds only known ones."""
    if set(IMPORT.findall(source)) <= LIBRARIES:
        return set()
    tree = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in tree if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.split(".")[0] for name in names}


def test_a_listed_service_of_the_installed_apprise_uses_http_or_mail_only():
    place = pathlib.Path(apprise.__file__).parent / "plugins"
    for scheme, module in notification_services.MODULES.items():
        sources = [*place.glob(f"{module}.py"), *place.glob(f"{module}/*.py")]
        assert sources, module
        for source in sources:
            text = source.read_text()
            assert imports(text) <= LIBRARIES, module
            assert not re.search(r"^\s.*\bsleep\(", text, re.MULTILINE), module
        assert notification_services.load_service(scheme)
    assert len(set(notification_services.MODULES.values())) > 100


def test_the_errors_of_the_client_are_those_of_the_attempt(tmp_path):
    with pytest.raises(TemporaryError, match="json: NewConnectionError"):
        client(tmp_path, "json://127.0.0.1:9/").send_notification(
            type("S", (), {"name": "to"})(), "t", "b"
        )
