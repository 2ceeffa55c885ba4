"""AWS Signature Version 4 of a request, in its headers.

Specification: docs.aws.amazon.com, IAM User Guide, "Create a signed AWS API request". The published test
vectors of AWS check it in the tests. Botocore itself is not a dependency: it excludes the version of
python-dateutil that the Kubernetes client needs.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from collections.abc import Mapping

ALGORITHM = "AWS4-HMAC-SHA256"
_UNSIGNED = frozenset({"authorization", "content-length", "user-agent", "expect", "connection"})
"""Headers that a proxy or the transport may change."""
_UNRESERVED = "-_.~"


@dataclass(frozen=True, slots=True)
class AwsCredentials:
    """An access key. token: the session token of temporary credentials, or "". ends: epoch seconds, or None."""

    key_id: str
    secret: str
    token: str = ""
    ends: float | None = None


@dataclass(frozen=True, slots=True)
class AwsRequest:
    """A request to sign. target: path and query as they are sent. host: value of the Host header."""

    method: str
    host: str
    target: str
    headers: Mapping[str, str]
    body: bytes


def sign(
    request: AwsRequest, credentials: AwsCredentials, scope: tuple[str, str], now: float
) -> dict[str, str]:
    """Return the headers to add to a request: X-Amz-Date, X-Amz-Security-Token and Authorization.

    scope: region and service, for example ``("eu-west-1", "lambda")``. now: epoch seconds.
    """
    region, service = scope
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    added = {"X-Amz-Date": moment}
    if credentials.token:
        added["X-Amz-Security-Token"] = credentials.token
    names, canonical = _canonical_request(request, added)
    place = f"{moment[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{credentials.secret}".encode()
    for part in place.split("/"):
        key = _hmac(key, part)
    signature = _hmac(key, f"{ALGORITHM}\n{moment}\n{place}\n{digest}").hex()
    credential = f"Credential={credentials.key_id}/{place}"
    authorization = f"{ALGORITHM} {credential}, SignedHeaders={names}, Signature={signature}"
    return {**added, "Authorization": authorization}


def _canonical_request(request: AwsRequest, added: Mapping[str, str]) -> tuple[str, str]:
    """Return the names of the signed headers, and the canonical request."""
    given = {**request.headers, **added, "Host": request.host}
    headers = {
        name.lower(): re.sub(" +", " ", value.strip())
        for name, value in given.items()
        if name.lower() not in _UNSIGNED
    }
    names = ";".join(sorted(headers))
    path, _, query = request.target.partition("?")
    lines = [
        request.method,
        quote(re.sub("/+", "/", path), safe=f"/{_UNRESERVED}"),
        _canonical_query(query),
        *(f"{name}:{headers[name]}" for name in sorted(headers)),
        "",
        names,
        hashlib.sha256(request.body).hexdigest(),
    ]
    return names, "\n".join(lines)


def _canonical_query(query: str) -> str:
    pairs = [part.partition("=")[::2] for part in query.split("&") if part]
    encoded = [tuple(quote(unquote(text), safe=_UNRESERVED) for text in pair) for pair in pairs]
    return "&".join(f"{name}={value}" for name, value in sorted(encoded))


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
