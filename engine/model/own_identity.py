"""The engine's own identity: its namespace, pod, node and ServiceAccount."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


MOUNTED = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""The folder where the kubelet mounts a pod's token, unless the pod disables it."""


@dataclass(frozen=True, slots=True)
class OwnIdentity:
    """The namespace, node and ServiceAccount of the engine; None outside a cluster."""

    namespace: str | None = None
    node: str | None = None
    service_account: str | None = None

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], mounted: Path | None = None
    ) -> OwnIdentity:
        """Read the identity from the downward API's variables, and missing values from the mounted folder.

        mounted: the folder of the ServiceAccount's token, or None.
        """
        names = ("TIERCEL_POD_NAMESPACE", "TIERCEL_NODE_NAME", "TIERCEL_SERVICE_ACCOUNT")
        namespace, node, account = (environment.get(name) or None for name in names)
        if mounted:
            namespace = namespace or _read(mounted / "namespace")
            account = account or _account(_read(mounted / "token"))
        return cls(namespace, node, account)

    @property
    def user(self) -> str | None:
        """The engine's user name in the API server's audit log, or None outside a cluster."""
        if self.namespace is None or self.service_account is None:
            return None
        return f"system:serviceaccount:{self.namespace}:{self.service_account}"


def _read(file: Path) -> str | None:
    """Return the text of a file, or None if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _account(token: str | None) -> str | None:
    """Return the ServiceAccount in a token's claim ``sub``. Not verified: only the kubelet writes the file."""
    try:
        claims = (token or "").split(".")[1]
        subject = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]
        kind, _, name = subject.rpartition(":")
    except (IndexError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return name if kind.startswith("system:serviceaccount:") and name else None
