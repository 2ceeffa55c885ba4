"""The credentials that ``http.request`` adds to a request (parameter ``auth``)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from typing import TYPE_CHECKING

from engine.model.calls import SecretName
from engine.model.errors import PermanentError
from engine.outbound.aws_signature import AwsCredentials, AwsRequest, sign

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.outbound.api import RequestAuth
    from engine.outbound.cloud_identity import CloudIdentity
    from engine.outbound.destination import Destination
    from engine.outbound.secrets import Secrets

_FUNCTION_URL = re.compile(r"[a-z0-9]+\.lambda-url\.([a-z0-9-]+)\.on\.aws")
"""The host of a Lambda function URL; it contains the region."""
DEFAULT_HEADER = "X-Hub-Signature-256"
"""The header of an HMAC signature, as GitHub and many functions expect it."""


class Authorizer:
    """Adds the credentials of an ``auth`` to a request.

    identity: returns the identity of the pod. It is made at first use.
    """

    def __init__(self, secrets: Secrets, identity: Callable[[], CloudIdentity]) -> None:
        self._secrets, self._identity = secrets, identity

    def headers(
        self,
        auth: RequestAuth,
        request: tuple[str, Destination, Mapping[str, str], bytes],
        deadline: float,
    ) -> tuple[dict[str, str], list[str]]:
        """Return the headers to add, and the secrets that they were made from.

        request: method, destination, headers and body. deadline: a time of the monotonic clock. Raises
        TemporaryError, PermanentError.
        """
        kinds: dict[str, Callable[..., tuple[dict[str, str], list[str]]]] = {
            "bearer": self._bearer,
            "basic": self._basic,
            "hmac": self._hmac,
            "aws": self._aws,
            "google": self._google,
        }
        return kinds[auth.kind](auth, request, deadline)

    def _bearer(self, auth: RequestAuth, *_: object) -> tuple[dict[str, str], list[str]]:
        token = self._read(auth, "token")
        return {"Authorization": f"Bearer {token}"}, [token]

    def _basic(self, auth: RequestAuth, *_: object) -> tuple[dict[str, str], list[str]]:
        username, password = self._read(auth, "username"), self._read(auth, "password")
        encoded = base64.b64encode(f"{username}:{password}".encode()).decode()
        return {"Authorization": f"Basic {encoded}"}, [password, encoded]

    def _hmac(
        self,
        auth: RequestAuth,
        request: tuple[str, Destination, Mapping[str, str], bytes],
        _: float,
    ) -> tuple[dict[str, str], list[str]]:
        secret = self._read(auth, "secret")
        algorithm = str(auth.options.get("algorithm", "sha256"))
        digest = hmac.new(secret.encode(), request[3], getattr(hashlib, algorithm)).hexdigest()
        return {str(auth.options.get("header", DEFAULT_HEADER)): f"{algorithm}={digest}"}, [secret]

    def _aws(
        self,
        auth: RequestAuth,
        request: tuple[str, Destination, Mapping[str, str], bytes],
        deadline: float,
    ) -> tuple[dict[str, str], list[str]]:
        method, destination, headers, body = request
        found = _FUNCTION_URL.fullmatch(destination.host)
        region = auth.options.get("region") or (found[1] if found else None)
        if not isinstance(region, str):
            raise PermanentError(
                "auth.aws needs `region`, because the host is not that of a function URL"
            )
        if "accessKeyId" in auth.options:
            token = self._read(auth, "sessionToken") if "sessionToken" in auth.options else ""
            credentials = AwsCredentials(
                self._read(auth, "accessKeyId"), self._read(auth, "secretAccessKey"), token
            )
        else:
            credentials = self._identity().aws(region, deadline)
        service = str(auth.options.get("service", "lambda"))
        to_sign = AwsRequest(method, destination.host_header, destination.target, headers, body)
        added = sign(to_sign, credentials, (region, service), time.time())
        secrets = [credentials.secret, credentials.token, added["Authorization"]]
        return added, [secret for secret in secrets if secret]

    def _google(
        self,
        auth: RequestAuth,
        request: tuple[str, Destination, Mapping[str, str], bytes],
        deadline: float,
    ) -> tuple[dict[str, str], list[str]]:
        destination = request[1]
        # the audience of Cloud Run and of functions is the URL of the service without a path
        origin = f"{destination.scheme}://{destination.host_header}"
        audience = str(auth.options.get("audience", origin))
        key = auth.options.get("key")
        text = self._secrets.read(key.name, lines=True) if isinstance(key, SecretName) else None
        token = self._identity().google(audience, text, deadline)
        return {"Authorization": f"Bearer {token}"}, [token]

    def _read(self, auth: RequestAuth, name: str) -> str:
        value = auth.options[name]
        return self._secrets.read(value.name) if isinstance(value, SecretName) else str(value)
