"""The credentials of http.request, checked as the receivers check them: SigV4, HMAC, ID tokens."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from engine.actions.registry import load_actions
from engine.language.findings import Findings
from engine.language.yaml_source import Document
from engine.model.calls import SecretName
from engine.model.errors import PermanentError, RefusedError, TemporaryError
from engine.outbound.api import RequestAuth, RequestRecorder
from engine.outbound.aws_signature import AwsCredentials, AwsRequest, sign
from engine.outbound.client import LiveHttpClient, Senders
from engine.outbound.secrets import Secrets

VECTOR_KEY = AwsCredentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
VECTOR_TIME = 1_440_938_160  # 20150830T123600Z
STS_TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8"
    "YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6"
    "fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQ"
    "wj2ICCR/oLxBA=="
)
UNRESERVED = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# The published test suite of AWS (aws-sig-v4-test-suite): method, target, headers, body, signature.
VECTORS = {
    "get-vanilla": ("GET", "/", {}, "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    "get-header-value-trim": (
        "GET", "/", {"My-Header1": " value1", "My-Header2": ' "a   b   c"'}, "",
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    "get-unreserved": (
        "GET", f"/{UNRESERVED}", {}, "", "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    ),
    "get-utf8": ("GET", "/ሴ", {}, "", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
    "get-vanilla-empty-query-key": (
        "GET", "/?Param1=value1", {}, "", "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
    ),
    "get-vanilla-query-order-key-case": (
        "GET", "/?Param2=value2&Param1=value1", {}, "",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "get-vanilla-query-order-value": (
        "GET", "/?Param1=value2&Param1=value1", {}, "",
        "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694",
    ),
    "get-vanilla-query-unreserved": (
        "GET", f"/?{UNRESERVED}={UNRESERVED}", {}, "",
        "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
    ),
    "get-vanilla-utf8-query": (
        "GET", "/?%E1%88%B4=bar", {}, "", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
    ),
    "get-slashes": (
        "GET", "//example//", {}, "", "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84",
    ),
    "get-space": (
        "GET", "/example space/", {}, "", "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
    ),
    "post-vanilla": ("POST", "/", {}, "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    "post-header-key-sort": (
        "POST", "/", {"My-Header1": "value1"}, "",
        "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
    ),
    "post-vanilla-query": (
        "POST", "/?Param1=value1", {}, "", "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
    ),
    "post-x-www-form-urlencoded": (
        "POST", "/", {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": "13"},
        "Param1=value1",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
def test_a_signature_is_that_of_the_published_vectors_of_aws(name):
    method, target, headers, body, signature = VECTORS[name]
    request = AwsRequest(method, "example.amazonaws.com", target, headers, body.encode())
    added = sign(request, VECTOR_KEY, ("us-east-1", "service"), VECTOR_TIME)
    assert added["X-Amz-Date"] == "20150830T123600Z"
    scope = "Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request"
    assert added["Authorization"].startswith(f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=")
    assert added["Authorization"].endswith(f", Signature={signature}")


def test_a_session_token_is_signed_as_in_the_vector_post_sts_header_before():
    key = AwsCredentials(VECTOR_KEY.key_id, VECTOR_KEY.secret, STS_TOKEN)
    added = sign(
        AwsRequest("POST", "example.amazonaws.com", "/", {}, b""),
        key,
        ("us-east-1", "service"),
        VECTOR_TIME,
    )
    assert added["X-Amz-Security-Token"] == STS_TOKEN
    assert added["Authorization"].endswith(
        "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"
    )


class Server(ThreadingHTTPServer):
    """Records requests as (method, target, headers, body). answers: path -> (status, body)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked, self.answers = [], {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def _answer(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.asked.append((self.command, self.path, dict(self.headers), body))
        status, said = self.server.answers.get(urlsplit(self.path).path, (200, b'{"ok": true}'))
        said = said(body) if callable(said) else said
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815 - http.server

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in (
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ):
        monkeypatch.delenv(name, raising=False)
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.01,))
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def outside(tmp_path):
    return LiveHttpClient(Secrets(tmp_path), timeout=30, senders=Senders(frozenset()))


def secret(tmp_path, name, value):
    (tmp_path / name).write_text(value)
    return SecretName(name)


def call(outside, server, kind, options, path="/function/x?b=2&a=1", body='{"rule": "R"}'):
    """Send a request with an auth; return the answer and what the server got."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": "run/step"}
    answer = outside.request(
        "POST", f"{server.url}{path}", headers, body, RequestAuth(kind, options)
    )
    method, target, headers, content = server.asked[-1]
    return answer, AwsRequest(method, headers["Host"], target, headers, content)


def test_a_bearer_token_and_basic_credentials_are_sent_and_masked(server, outside, tmp_path):
    token = secret(tmp_path, "t", "canary-token")
    server.answers["/function/x"] = (200, b'{"you sent": "Bearer canary-token"}')
    answer, got = call(outside, server, "bearer", {"token": token})
    assert got.headers["Authorization"] == "Bearer canary-token"
    assert "canary" not in str(answer)
    _, got = call(outside, server, "basic", {"username": "admin", "password": token})
    assert (
        base64.b64decode(got.headers["Authorization"].removeprefix("Basic "))
        == b"admin:canary-token"
    )


@pytest.mark.parametrize(
    ("algorithm", "header"), [("sha256", "X-Hub-Signature-256"), ("sha1", "Hmac")]
)
def test_an_hmac_signs_the_body_that_is_sent(server, outside, tmp_path, algorithm, header):
    options = {
        "secret": secret(tmp_path, "k", "canary-key"),
        "algorithm": algorithm,
        "header": header,
    }
    _, got = call(outside, server, "hmac", options, body={"rule": "é"})
    expected = hmac.new(b"canary-key", got.body, algorithm).hexdigest()
    assert got.headers[header] == f"{algorithm}={expected}"


def verify_aws(request, credentials, scope):
    """Verify a signature as the receiver does: from what arrived."""
    authorization = request.headers["Authorization"]
    signed = authorization.split("SignedHeaders=")[1].split(",")[0].split(";")
    assert {"host", "x-amz-date", "content-type", "idempotency-key"} <= set(signed)
    moment = time.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ")
    now = (time.mktime(moment) - time.timezone) // 1
    assert abs(now - time.time()) < 300
    names = {name.lower(): value for name, value in request.headers.items()}
    only = {
        name: names[name] for name in signed if not name.startswith("x-amz-") and name != "host"
    }
    again = AwsRequest(request.method, names["host"], request.target, only, request.body)
    assert sign(again, credentials, scope, now)["Authorization"] == authorization


def test_aws_signs_with_keys_from_secrets(server, outside, tmp_path):
    options = {
        "region": "eu-west-1",
        "accessKeyId": secret(tmp_path, "id", "AKIDEXAMPLE"),
        "secretAccessKey": secret(tmp_path, "key", "canary-secret-key"),
    }
    _, got = call(outside, server, "aws", options)
    verify_aws(got, AwsCredentials("AKIDEXAMPLE", "canary-secret-key"), ("eu-west-1", "lambda"))
    assert "canary" not in str(got.headers)


STS = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult><Credentials>
    <SessionToken>canary-session</SessionToken><SecretAccessKey>canary-temporary</SecretAccessKey>
    <Expiration>{}</Expiration><AccessKeyId>ASIAEXAMPLE</AccessKeyId>
  </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"""


def expiration(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


@pytest.mark.usefixtures("role")
def test_aws_uses_the_role_of_the_service_account_and_keeps_its_credentials(server, outside):
    server.answers["/sts"] = (200, STS.format(expiration(3600)).encode())
    for _ in range(2):
        _, got = call(outside, server, "aws", {"region": "eu-west-1"})
        assert got.headers["X-Amz-Security-Token"] == "canary-session"
        key = AwsCredentials("ASIAEXAMPLE", "canary-temporary", "canary-session")
        verify_aws(got, key, ("eu-west-1", "lambda"))
    asked = [parse_qs(body.decode()) for _, path, _, body in server.asked if path == "/sts"]
    (form,) = asked
    assert form["Action"] == ["AssumeRoleWithWebIdentity"]
    assert form["WebIdentityToken"] == ["header.payload.signature"]
    assert form["RoleArn"] == ["arn:aws:iam::123456789012:role/responder"]


def test_credentials_that_end_soon_are_fetched_again(server, outside, monkeypatch):
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/agent")
    data = {
        "AccessKeyId": "ASIA",
        "SecretAccessKey": "s",
        "Token": "t",
        "Expiration": expiration(60),
    }
    server.answers["/agent"] = (200, json.dumps(data).encode())
    for _ in range(2):
        call(outside, server, "aws", {"region": "eu-west-1"})
    assert [path for _, path, *_ in server.asked].count("/agent") == 2


@pytest.fixture
def role(server, tmp_path, monkeypatch):
    (tmp_path / "web-identity").write_text("header.payload.signature\n")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/responder")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "web-identity"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"{server.url}/sts")


@pytest.mark.usefixtures("role")
@pytest.mark.parametrize(
    ("answer", "error", "what"),
    [
        ((403, b"<Error>canary</Error>"), PermanentError, "AWS STS answered 403"),
        ((500, b""), TemporaryError, "AWS STS answered 500"),
        ((200, b"<AccessKeyId>x</AccessKeyId>"), TemporaryError, "did not answer with credentials"),
        ((302, b""), PermanentError, "AWS STS answered 302"),
    ],
)
def test_an_identity_that_aws_refuses_is_reported(server, outside, answer, error, what):
    server.answers["/sts"] = answer
    with pytest.raises(error, match=what) as raised:
        call(outside, server, "aws", {"region": "eu-west-1"})
    assert "canary" not in str(raised.value)


def test_without_an_identity_or_a_region_the_message_says_what_to_do(server, outside):
    with pytest.raises(PermanentError, match="annotate its ServiceAccount"):
        call(outside, server, "aws", {"region": "eu-west-1"})
    with pytest.raises(PermanentError, match="`region`"):
        call(outside, server, "aws", {})


def test_an_agent_on_another_host_is_not_asked(server, outside, monkeypatch):
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://agent.example/credentials")
    with pytest.raises(PermanentError, match="not the URL of a local agent"):
        call(outside, server, "aws", {"region": "eu-west-1"})


@pytest.fixture(scope="module")
def google_key():
    return rsa.generate_private_key(65537, 2048)


def b64(data):
    return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()


def claims(token, public):
    """The verified claims of a JWT with RS256."""
    head, payload, signature = token.split(".")
    raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    public.verify(raw, f"{head}.{payload}".encode(), padding.PKCS1v15(), hashes.SHA256())
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def test_google_exchanges_a_signed_request_for_an_id_token(server, outside, tmp_path, google_key):
    pem = google_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "responder@project.iam.gserviceaccount.com",
        "private_key": pem.decode(),
        "private_key_id": "k1",
        "token_uri": f"{server.url}/token",
    }
    token = f"{b64({'alg': 'RS256'})}.{b64({'exp': int(time.time()) + 3600, 'aud': 'canary'})}.c2ln"
    server.answers["/token"] = (200, json.dumps({"id_token": token}).encode())
    key = secret(tmp_path, "google", json.dumps(account, indent=2) + "\n")
    for _ in range(2):
        _, got = call(outside, server, "google", {"key": key, "audience": "https://f.example"})
        assert got.headers["Authorization"] == f"Bearer {token}"
    (form,) = [parse_qs(body.decode()) for _, path, _, body in server.asked if path == "/token"]
    signed = claims(form["assertion"][0], google_key.public_key())
    assert signed["target_audience"] == "https://f.example"
    assert signed["iss"] == "responder@project.iam.gserviceaccount.com"
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]


def test_google_asks_the_metadata_server_for_the_identity_of_the_pod_without_a_proxy(
    server, outside, monkeypatch
):
    monkeypatch.setenv("GCE_METADATA_HOST", server.url.removeprefix("http://"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    path = "/computeMetadata/v1/instance/service-accounts/default/identity"
    token = f"{b64({'alg': 'RS256'})}.{b64({'exp': int(time.time()) + 3600})}.c2ln"
    server.answers[path] = (200, token.encode())
    with pytest.raises(
        TemporaryError, match=r"127\.0\.0\.1"
    ):  # the function itself is behind the proxy
        call(outside, server, "google", {})
    ((_, target, headers, _),) = server.asked
    assert headers["Metadata-Flavor"] == "Google"
    assert parse_qs(urlsplit(target).query) == {"audience": [server.url], "format": ["full"]}


@pytest.mark.parametrize(
    "text", ["{}", "not JSON", '{"type": "service_account", "private_key": "canary"}']
)
def test_a_key_that_is_not_one_is_reported_without_its_text(server, outside, tmp_path, text):
    with pytest.raises(PermanentError, match="not the JSON key of a service account") as raised:
        call(outside, server, "google", {"key": secret(tmp_path, "google", text)})
    assert "canary" not in str(raised.value)
    assert server.asked == []


def test_a_key_that_sends_its_request_to_a_metadata_address_gets_nothing(
    server, outside, tmp_path, google_key
):
    pem = google_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account", "client_email": "a@b", "private_key": pem.decode(),
        "token_uri": "http://169.254.169.254/token",
    }  # fmt: skip
    with pytest.raises((TemporaryError, RefusedError)):
        call(outside, server, "google", {"key": secret(tmp_path, "google", json.dumps(account))})
    assert server.asked == []


def test_a_preview_masks_the_credentials_and_reads_no_secret():
    recorder = RequestRecorder()
    recorder.request(
        "POST", "https://f.example/x", {}, "b", RequestAuth("hmac", {"secret": SecretName("s")})
    )
    recorder.request("POST", "https://f.example/x", {}, "b", RequestAuth("aws", {}))
    assert [request.headers for request in recorder.requests] == [
        {"X-Hub-Signature-256": "***"},
        {"Authorization": "***"},
    ]


def faults(auth, **given):
    findings = Findings(Document("p.yaml", {"with": {}}))
    data = {"url": "https://f.example/x", "auth": auth, **given}
    load_actions()["http.request"].compile(data, ("with",), findings, ())
    return [entry.what for entry in findings.entries]


S = {"fromSecret": "s"}


@pytest.mark.parametrize(
    ("auth", "what"),
    [
        ({}, "exactly one"),
        ({"bearer": {"token": S}, "aws": {}}, "exactly one"),
        ({"bearer": {}}, "`auth.bearer` needs `token`"),
        ({"basic": {"password": S}}, "`auth.basic` needs `username`"),
        ({"hmac": {"header": "X"}}, "`auth.hmac` needs `secret`"),
        ({"aws": {"accessKeyId": S}}, "together"),
        ({"aws": {"sessionToken": S}}, "only with"),
        ({"bearer": {"token": "literal"}}, "secret"),
        ({"digest": {}}, "has no `digest`"),
        ({"hmac": {"secret": S, "algorithm": "md5"}}, "takes sha256"),
        ({"hmac": {"secret": S, "header": "Host"}}, "sets itself"),
        ({"aws": {"region": "eu west"}}, "region"),
        ("bearer", "takes a mapping"),
        ({"bearer": S}, "has no `fromSecret`"),
    ],
)
def test_a_wrong_auth_is_a_finding(auth, what):
    found = faults(auth)
    assert any(what in one for one in found), found


def test_a_right_auth_has_no_finding_unless_the_header_is_given_twice():
    for auth in (
        {"bearer": {"token": S}},
        {"basic": {"username": "u", "password": S}},
        {"hmac": {"secret": S}},
        {"aws": {}},
        {"google": {"audience": "https://f.example"}},
    ):
        assert faults(auth) == []
    given = {"authorization": S}
    assert "remove it from `headers`" in faults({"aws": {}}, headers=given)[0]
    assert faults({"hmac": {"secret": S}}, headers=given) == []
    assert (
        "X-Mine" in faults({"hmac": {"secret": S, "header": "X-Mine"}}, headers={"x-mine": "y"})[0]
    )
