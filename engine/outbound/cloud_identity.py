"""The identity of the engine's own pod at AWS and Google Cloud, and ID tokens of Google service accounts.

AWS: a role for the ServiceAccount (IRSA: AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE) or EKS Pod Identity
(AWS_CONTAINER_CREDENTIALS_FULL_URI). Google Cloud: the metadata server (Workload Identity), or the key of a
service account. The environment of the pod, not a playbook, names these servers, so ``--http-hosts`` does not
apply to them.

Each credential is kept in memory until five minutes before it expires.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
import time
from collections import OrderedDict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote, urlencode

from engine.model.errors import PermanentError, RefusedError, TemporaryError
from engine.outbound.aws_signature import AwsCredentials
from engine.outbound.connections import seconds_left
from engine.outbound.destination import Destination, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.outbound.sender import Response, Sender

_T = TypeVar("_T")
EARLY = 300.0
"""Seconds before the expiry of a credential at which a new one is fetched."""
_MAX_KEPT = 100
_MAX_FILE = 64 << 10
_AGENT_HOSTS = frozenset({"127.0.0.1", "::1", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"})
"""The hosts that AWS SDKs allow for AWS_CONTAINER_CREDENTIALS_FULL_URI over http."""
_LIFE = 3600.0
"""Lifetime, in seconds, of a credential without a known expiry."""


class CloudIdentity:
    """Fetches credentials. Thread-safe.

    direct: a sender that uses no proxy and may connect to link-local addresses. outside: for servers outside the
    cluster.
    """

    def __init__(self, direct: Sender, outside: Sender) -> None:
        self._direct, self._outside = direct, outside
        self._kept: OrderedDict[tuple[str, ...], tuple[float, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def aws(self, region: str, deadline: float) -> AwsCredentials:
        """Return the credentials of the pod. Raises TemporaryError, PermanentError.

        deadline: a time of the monotonic clock.
        """
        role, agent = (
            os.environ.get("AWS_ROLE_ARN"),
            os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        )
        file = os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE")
        if role and file:
            return self._cached(
                ("sts", role, region), lambda: self._assume_role(role, file, region, deadline)
            )
        if agent:
            return self._cached(("agent", agent), lambda: self._ask_agent(agent, deadline))
        raise PermanentError(
            "aws: the pod has no identity (AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE are not set); "
            "annotate its ServiceAccount with a role, or give accessKeyId and secretAccessKey"
        )

    def google(self, audience: str, key: str | None, deadline: float) -> str:
        """Return an ID token for an audience. Raises TemporaryError, PermanentError.

        key: JSON key of a service account, or None for the identity of the pod.
        """
        if key is None:
            return self._cached(
                ("metadata", audience), lambda: self._ask_metadata(audience, deadline)
            )
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self._cached(
            ("key", audience, digest), lambda: self._exchange_key(audience, key, deadline)
        )

    def _cached(self, key: tuple[str, ...], fetch: Callable[[], tuple[float, _T]]) -> _T:
        """Return a credential that is valid for some time. fetch: returns expiry (epoch seconds) and value."""
        with self._lock:
            ends, kept = self._kept.get(key, (0.0, None))
        if kept is not None and ends - EARLY > time.time():
            return cast("_T", kept)
        ends, value = fetch()
        with self._lock:
            self._kept[key] = (ends, value)
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return value

    def _assume_role(
        self, role: str, file: str, region: str, deadline: float
    ) -> tuple[float, AwsCredentials]:
        """Exchange the token of the ServiceAccount for credentials of the role (AssumeRoleWithWebIdentity)."""
        form = {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "RoleArn": role,
            "RoleSessionName": os.environ.get("AWS_ROLE_SESSION_NAME", "tiercel"),
            "WebIdentityToken": _read_file(file),
        }
        url = os.environ.get("AWS_ENDPOINT_URL_STS") or f"https://sts.{region}.amazonaws.com/"
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/xml"}
        response = self._send(
            self._outside,
            "AWS STS",
            ("POST", parse_url(url)),
            headers,
            urlencode(form).encode(),
            deadline,
        )
        text = response.body.decode("utf-8", "replace")
        names = ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
        found = {
            name: re.search(rf"<{name}>\s*([^<]{{1,20000}}?)\s*</{name}>", text) for name in names
        }
        return _aws_credentials(
            "AWS STS", {name: match[1] for name, match in found.items() if match}
        )

    def _ask_agent(self, url: str, deadline: float) -> tuple[float, AwsCredentials]:
        """Ask the agent of EKS Pod Identity."""
        destination = parse_url(url)
        if destination.scheme == "http" and destination.host not in _AGENT_HOSTS:
            raise PermanentError(
                "aws: AWS_CONTAINER_CREDENTIALS_FULL_URI is not the URL of a local agent"
            )
        file = os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        headers = {"Authorization": _read_file(file)} if file else {}
        response = self._send(
            self._direct, "EKS Pod Identity", ("GET", destination), headers, None, deadline
        )
        data = _json_object(response.body)
        return _aws_credentials("EKS Pod Identity", {**data, "SessionToken": data.get("Token")})

    def _ask_metadata(self, audience: str, deadline: float) -> tuple[float, str]:
        """Ask the metadata server of Google Cloud for an ID token."""
        host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
        path = "computeMetadata/v1/instance/service-accounts/default/identity"
        url = f"http://{host}/{path}?audience={quote(audience, safe='')}&format=full"
        headers = {"Metadata-Flavor": "Google"}
        name = "the metadata server of Google Cloud"
        response = self._send(self._direct, name, ("GET", parse_url(url)), headers, None, deadline)
        token = response.body.decode("ascii", "replace").strip()
        if not re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", token):
            raise TemporaryError(f"{name} did not answer with a token", answered=True)
        return _end_of_token(token), token

    def _exchange_key(self, audience: str, key: str, deadline: float) -> tuple[float, str]:
        """Exchange a request that the key of a service account signed for an ID token."""
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415 - loads cryptography
        from google.oauth2.service_account import IDTokenCredentials  # noqa: PLC0415 - the same

        try:
            credentials = IDTokenCredentials.from_service_account_info(  # type: ignore[no-untyped-call]
                _json_object(key.encode()), target_audience=audience
            )
        except (GoogleAuthError, ValueError, TypeError, KeyError):
            raise PermanentError(
                "google: the secret is not the JSON key of a service account"
            ) from None
        try:
            credentials.refresh(_GoogleTransport(self, deadline))
        except GoogleAuthError as error:
            raise TemporaryError(f"google: {type(error).__name__}", answered=True) from None
        token = str(credentials.token)
        return _end_of_token(token), token

    def _send(
        self,
        sender: Sender,
        name: str,
        line: tuple[str, Destination],
        headers: Mapping[str, str],
        body: bytes | None,
        deadline: float,
    ) -> Response:
        """Send a request, and return a response with status 200. line: method and destination."""
        import urllib3  # noqa: PLC0415 - loads the HTTP libraries

        try:
            response = sender.send(line[1], line[0], headers, body, seconds_left(deadline))
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise TemporaryError(f"{name}: {type(error).__name__}") from None
        if response.status in (429, 500, 502, 503, 504):
            raise TemporaryError(f"{name} answered {response.status}")
        if response.status != 200:  # noqa: PLR2004 - HTTP
            raise PermanentError(
                f"{name} answered {response.status}: check the identity of the pod and its rights"
            )
        return response

    def fetch(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, deadline: float
    ) -> Response:
        """Send a request of google-auth to a server outside the cluster. Returns any response."""
        return self._outside.send(parse_url(url), method, headers, body, seconds_left(deadline))


class _GoogleTransport:
    """The transport of google-auth over our sender (google.auth.transport.Request)."""

    def __init__(self, identity: CloudIdentity, deadline: float) -> None:
        self._identity, self._deadline = identity, deadline

    def __call__(
        self, url: str, method: str = "GET", body: Any = None, headers: Any = None, **_: Any
    ) -> _GoogleResponse:
        import urllib3  # noqa: PLC0415 - loads the HTTP libraries
        from google.auth.exceptions import TransportError  # noqa: PLC0415 - the same

        content = body.encode() if isinstance(body, str) else body
        try:
            response = self._identity.fetch(method, url, headers or {}, content, self._deadline)
        except (urllib3.exceptions.HTTPError, OSError, ValueError, RefusedError) as error:
            raise TransportError(type(error).__name__) from None  # type: ignore[no-untyped-call]
        return _GoogleResponse(response)


class _GoogleResponse:
    """A response for google-auth (google.auth.transport.Response)."""

    def __init__(self, response: Response) -> None:
        self.status, self.headers, self.data = response.status, response.headers, response.body


def _read_file(path: str) -> str:
    """Return the token in a file. Raises TemporaryError."""
    try:
        with Path(path).open("rb") as file:
            return file.read(_MAX_FILE).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise TemporaryError(f"{path}: {type(error).__name__}") from None


def _json_object(body: bytes) -> dict[str, Any]:
    """Return a JSON object; empty if the body is not one."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _aws_credentials(name: str, data: Mapping[str, Any]) -> tuple[float, AwsCredentials]:
    """Return the expiry of credentials, and the credentials. Raises TemporaryError if a part is missing."""
    parts = [data.get(key) for key in ("AccessKeyId", "SecretAccessKey", "SessionToken")]
    if not all(isinstance(part, str) and part.isascii() and part.isprintable() for part in parts):
        raise TemporaryError(f"{name} did not answer with credentials", answered=True)
    try:
        ends = datetime.fromisoformat(str(data.get("Expiration"))).timestamp()
    except (ValueError, OverflowError):
        ends = time.time() + _LIFE
    key_id, secret, token = map(str, parts)
    return ends, AwsCredentials(key_id, secret, token, ends)


def _end_of_token(token: str) -> float:
    """Return the ``exp`` of a JWT, not verified: the receiver verifies it. 0 if it has none."""
    payload = token.split(".")[1] if token.count(".") == 2 else ""  # noqa: PLR2004 - JWT
    try:
        data = _json_object(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except ValueError:
        return 0.0
    ends = data.get("exp")
    return float(ends) if isinstance(ends, (int, float)) else 0.0
