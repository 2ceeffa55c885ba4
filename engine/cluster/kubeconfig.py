"""The address of the API server and the credentials for it, from a kubeconfig or from the files of a pod.

The official client reads the kubeconfig. This module reads credential plugins, token files and expiry times
itself, because the client would continue without credentials if one of them fails.
"""

from __future__ import annotations

import base64
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import structlog

from engine.cluster.exec_plugin import PluginError, run_plugin

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()
TOKEN_FILE_SECONDS = 60.0
"""Seconds after which a token file is read again, as in client-go."""
RENEW_BEFORE = 10.0
"""Seconds before its expiry at which a credential is renewed."""
RENEW_INTERVAL = 5.0
"""Seconds between two renewals, so that a plugin does not run at every call."""
_MAX_KUBECONFIG = 8 << 20
_MAX_TOKEN = 64 << 10


class ConnectionSettingsError(Exception):
    """There are no usable credentials: the kubeconfig is missing or invalid, or no ServiceAccount is mounted."""


@dataclass(frozen=True, slots=True)
class ApiServerAccess:
    """The settings of the official client (server, TLS, proxy) and the Authorization header.

    expires_at: epoch seconds at which they are read again; None if they are read again only after a 401.
    """

    settings: Any
    authorization: str | None
    expires_at: float | None = None

    @property
    def identity(self) -> tuple[str | None, str | None, str | None]:
        """The credentials: the header, and the paths of the client certificate and its key."""
        return self.authorization, self.settings.cert_file, self.settings.key_file


class Credentials:
    """The access to one API server, renewed when it expires or the server refuses it. Thread-safe.

    If a renewal fails, the previous access remains in use.

    read: reads the access. The constructor calls it too. Raises ConnectionSettingsError.
    """

    def __init__(self, read: Callable[[], ApiServerAccess]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._error: ConnectionSettingsError | None = None
        self._next_renewal = {"expired": 0.0, "refused": 0.0}
        self._access = read()

    def current(self) -> ApiServerAccess:
        """Return the access, renewed if it has expired; the previous one if the renewal fails."""
        access = self._access
        if access.expires_at is not None and time.time() >= access.expires_at:
            try:
                self.renew(access, "expired")
            except ConnectionSettingsError:
                return access  # the server decides whether it is still valid
        return self._access

    def renew(self, old: ApiServerAccess, why: Literal["expired", "refused"]) -> None:
        """Read the access again, unless another thread has already replaced ``old``.

        At most one renewal for each reason happens in ``RENEW_INTERVAL`` seconds, and after a failure at most
        one for any reason. Raises ConnectionSettingsError.
        """
        with self._lock:
            if self._access is not old:
                return
            now = time.monotonic()
            if now < self._next_renewal[why]:
                if self._error:
                    raise self._error
                return
            self._next_renewal[why] = now + RENEW_INTERVAL
            try:
                self._access = self._read()
            except ConnectionSettingsError as error:
                if self._error is None:
                    log.error(
                        "credentials_not_renewed",
                        error=str(error),
                    )
                self._error = error
                self._next_renewal = dict.fromkeys(self._next_renewal, now + RENEW_INTERVAL)
                raise
            self._error = None


def read_access(kubeconfig: str | None, context: str | None) -> ApiServerAccess:
    """Read the access of a kubeconfig's context, or with neither of a pod. Raises ConnectionSettingsError."""
    import urllib3  # noqa: PLC0415 - loaded with the client
    import yaml  # noqa: PLC0415 - the same
    from kubernetes import config  # noqa: PLC0415 - the same
    from kubernetes.client import Configuration  # noqa: PLC0415 - the same

    settings = Configuration()
    settings.retries = urllib3.Retry(0, redirect=0, respect_retry_after_header=False)
    which = f"--kubeconfig {kubeconfig}: " if kubeconfig else ""
    try:
        if kubeconfig or context:
            expires_at = _load_context(kubeconfig, context, settings)
        else:
            config.load_incluster_config(settings)  # type: ignore[no-untyped-call]
            _check_server("KUBERNETES_SERVICE_HOST", settings.host)
            expires_at = time.time() + TOKEN_FILE_SECONDS
        settings.refresh_api_key_hook = None  # Credentials renews instead
        header = settings.api_key.pop("BearerToken", None)
        return ApiServerAccess(settings, _header(header) if header else None, expires_at)
    except yaml.MarkedYAMLError as error:  # its text contains the line, which may be a token
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConnectionSettingsError(f"{which}is not valid YAML{line}: {error.problem}") from None
    except (config.ConfigException, PluginError, yaml.YAMLError, OSError) as error:
        raise ConnectionSettingsError(which + " ".join(str(error).split())) from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        what = f"is not a valid kubeconfig ({type(error).__name__})"
        raise ConnectionSettingsError(which + what) from None


def _load_context(kubeconfig: str | None, context: str | None, settings: Any) -> float | None:
    """Load a context into the settings, and return its expiry. Raises what ``read_access`` catches."""
    from kubernetes.config import ConfigException  # noqa: PLC0415 - loaded with the client
    from kubernetes.config.kube_config import (  # noqa: PLC0415 - the same
        KUBE_CONFIG_DEFAULT_LOCATION,
        KubeConfigLoader,
        KubeConfigMerger,
    )

    paths = kubeconfig or KUBE_CONFIG_DEFAULT_LOCATION
    for path in filter(None, paths.split(os.pathsep)):
        if Path(path).exists():
            _read_file(path, _MAX_KUBECONFIG)
    node = KubeConfigMerger(paths).config  # type: ignore[no-untyped-call]
    if node is None:
        raise ConfigException("the file does not exist")
    name = context or node["current-context"]
    settings_of_context = node["contexts"].get_with_name(name)["context"]
    cluster = node["clusters"].get_with_name(settings_of_context["cluster"])["cluster"]
    _check_server(f"cluster {settings_of_context['cluster']}", cluster.safe_get("server"))
    user_name = settings_of_context.safe_get("user")
    found = node["users"].get_with_name(user_name, safe=True) if user_name else None
    if found is None or found.safe_get("user") is None:
        what = f"the user {user_name} has no credentials" if user_name else "has no user"
        raise ConfigException(f"context {name}: {what}")
    user = found["user"]
    anonymous = not user.value  # an empty user means anonymous access
    folder = os.path.dirname(os.path.abspath(user.path))  # noqa: PTH100, PTH120 - a text
    expires_at = _resolve_credentials(user.value, folder, cluster.value)
    KubeConfigLoader(node, active_context=name).load_and_set(settings)  # type: ignore[no-untyped-call]
    if not anonymous and not settings.api_key.get("BearerToken") and not settings.cert_file:
        raise ConfigException(f"context {name}: the user {user_name} has no credentials")
    return expires_at


def _resolve_credentials(
    user: dict[str, Any], folder: str, cluster: dict[str, Any]
) -> float | None:
    """Replace the token file or the plugin of a user with its credentials, and return their expiry."""
    if user.get("tokenFile"):
        path = os.path.join(folder, user.pop("tokenFile"))  # noqa: PTH118 - a text
        user["token"] = _read_file(path, _MAX_TOKEN).decode().strip()
        if not user["token"]:
            raise OSError(f"the tokenFile {path} is empty")
        return time.time() + TOKEN_FILE_SECONDS
    if not user.get("exec") or user.get("token"):
        return None
    given = run_plugin(user.pop("exec"), folder, cluster)
    if given.token:
        user["token"] = given.token
    else:
        for key, text in (("certificate", given.certificate), ("key", given.key)):
            user[f"client-{key}-data"] = base64.b64encode((text or "").encode()).decode()
    return None if given.expires_at is None else given.expires_at - RENEW_BEFORE


def _check_server(where: str, server: Any) -> None:
    """Raise OSError if a text is not the URL of a server. The message contains no password."""
    text = server if isinstance(server, str) else ""
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not text:
        raise OSError(f"{where} has no `server`")
    if not fits or not text.isprintable() or " " in text:
        shown = text[:80] if "@" not in text else "…"  # it may be a password
        raise OSError(f"{where}: `server: {shown!r}` is not an http(s) URL with a host")


def _header(text: str) -> str:
    """Return the Authorization header. Raises OSError if its credential is empty or cannot be sent."""
    scheme, _, secret = text.strip().partition(" ")
    if not secret.strip() or not all("!" <= letter <= "~" for letter in secret.strip()):
        raise OSError("the token is empty or contains invalid characters")
    return f"{scheme} {secret.strip()}"


def _read_file(path: str, max_bytes: int) -> bytes:
    """Return the content of a file. Raises OSError, also for more than ``max_bytes`` bytes."""
    with Path(path).expanduser().open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(f"{path} is larger than {max_bytes >> 10} KiB")
    return content


def default_kubeconfig() -> str | None:
    """Return the kubeconfig that kubectl would use: KUBECONFIG, or ``~/.kube/config`` if it exists, or None."""
    named = os.environ.get("KUBECONFIG")
    home = Path.home() / ".kube" / "config"
    return named or (str(home) if home.exists() else None)
