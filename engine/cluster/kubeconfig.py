"""Where the API server is and who we are there: a kubeconfig, or what a pod is given.

The official client reads the files. Plugins, token files and their ends are read here: the client goes on
without credentials if one of them fails.
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
TOKEN_FOR = 60.0
"""Seconds after which a token is read again from its file, as client-go does."""
EARLY = 10.0
"""Seconds before its end at which a credential is renewed."""
PAUSE = 5.0
"""Seconds between two attempts to renew, so that no plugin runs at every call."""
_LONGEST_FILE = 8 << 20
_LONGEST_TOKEN = 64 << 10


class ConnectionSettingsError(Exception):
    """No usable credentials: a kubeconfig that is missing or broken, or no ServiceAccount mounted."""


@dataclass(frozen=True, slots=True)
class ApiServerAccess:
    """The client's settings (server, TLS, proxy) and the Authorization header, as they were read.

    until: epoch seconds at which they are read again; None if only the server's 401 says so.
    """

    settings: Any
    authorization: str | None
    until: float | None = None

    @property
    def shown(self) -> tuple[str | None, str | None, str | None]:
        """What the server is shown: the header, the files of the certificate and of its key."""
        return self.authorization, self.settings.cert_file, self.settings.key_file


class Credentials:
    """The access to one API server, renewed when it ends and when the server refuses it; thread-safe.

    The previous access stays until there is a new one. read: reads the access; raises ConnectionSettingsError,
    also from the constructor.
    """

    def __init__(self, read: Callable[[], ApiServerAccess]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._error: ConnectionSettingsError | None = None
        self._next = {"ended": 0.0, "refused": 0.0}
        self._access = read()

    def current(self) -> ApiServerAccess:
        """The access, renewed if its end has come; the previous one if that fails."""
        access = self._access
        if access.until is not None and time.time() >= access.until:
            try:
                self.renew(access, "ended")
            except ConnectionSettingsError:
                return access  # the server decides
        return self._access

    def renew(self, old: ApiServerAccess, why: Literal["ended", "refused"]) -> None:
        """Read the access again, unless it is not ``old`` any more. Raises ConnectionSettingsError.

        For the same reason it is read once in PAUSE seconds, and after a failure for any reason.
        """
        with self._lock:
            if self._access is not old:
                return
            now = time.monotonic()
            if now < self._next[why]:
                if self._error:
                    raise self._error
                return
            self._next[why] = now + PAUSE
            try:
                self._access = self._read()
            except ConnectionSettingsError as error:
                if self._error is None:
                    log.error(
                        "no credentials for the API server, the previous ones stay",
                        error=str(error),
                    )
                self._error = error
                self._next = dict.fromkeys(self._next, now + PAUSE)
                raise
            self._error = None


def read_access(kubeconfig: str | None, context: str | None) -> ApiServerAccess:
    """The access of a kubeconfig's context, or with neither that of this pod. Raises ConnectionSettingsError."""
    import urllib3  # noqa: PLC0415 - loaded with the client
    import yaml  # noqa: PLC0415 - the same
    from kubernetes import config  # noqa: PLC0415 - the same
    from kubernetes.client import Configuration  # noqa: PLC0415 - the same

    settings = Configuration()
    settings.retries = urllib3.Retry(0, redirect=0, respect_retry_after_header=False)
    which = f"--kubeconfig {kubeconfig}: " if kubeconfig else ""
    try:
        if kubeconfig or context:
            until = _from_file(kubeconfig, context, settings)
        else:
            config.load_incluster_config(settings)  # type: ignore[no-untyped-call]
            _check_server("KUBERNETES_SERVICE_HOST", settings.host)
            until = time.time() + TOKEN_FOR
        settings.refresh_api_key_hook = None  # see Credentials
        header = settings.api_key.pop("BearerToken", None)
        return ApiServerAccess(settings, _header(header) if header else None, until)
    except yaml.MarkedYAMLError as error:  # its text repeats the line, which may be a token
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConnectionSettingsError(f"{which}is not valid YAML{line}: {error.problem}") from None
    except (config.ConfigException, PluginError, yaml.YAMLError, OSError) as error:
        raise ConnectionSettingsError(which + " ".join(str(error).split())) from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        what = f"is not a valid kubeconfig ({type(error).__name__})"
        raise ConnectionSettingsError(which + what) from None


def _from_file(kubeconfig: str | None, context: str | None, settings: Any) -> float | None:
    """Read a context into the settings; until when it is good. Raises what ``read_access`` catches."""
    from kubernetes.config import ConfigException  # noqa: PLC0415 - loaded with the client
    from kubernetes.config.kube_config import (  # noqa: PLC0415 - the same
        KUBE_CONFIG_DEFAULT_LOCATION,
        KubeConfigLoader,
        KubeConfigMerger,
    )

    paths = kubeconfig or KUBE_CONFIG_DEFAULT_LOCATION
    for path in filter(None, paths.split(os.pathsep)):
        if Path(path).exists():
            _small(path, _LONGEST_FILE)
    node = KubeConfigMerger(paths).config  # type: ignore[no-untyped-call]
    if node is None:
        raise ConfigException("the file does not exist")
    name = context or node["current-context"]
    inner = node["contexts"].get_with_name(name)["context"]
    cluster = node["clusters"].get_with_name(inner["cluster"])["cluster"]
    _check_server(f"cluster {inner['cluster']}", cluster.safe_get("server"))
    who = inner.safe_get("user")
    found = node["users"].get_with_name(who, safe=True) if who else None
    if found is None or found.safe_get("user") is None:
        what = f"the user {who} has no credentials" if who else "has no user"
        raise ConfigException(f"context {name}: {what}")
    user = found["user"]
    anonymous = not user.value  # `user: {}` asks for it
    until = _opened(user.value, os.path.dirname(os.path.abspath(user.path)), cluster.value)  # noqa: PTH100, PTH120 - a text
    KubeConfigLoader(node, active_context=name).load_and_set(settings)  # type: ignore[no-untyped-call]
    if not anonymous and not settings.api_key.get("BearerToken") and not settings.cert_file:
        raise ConfigException(f"context {name}: the user {who} has no credentials")
    return until


def _opened(user: dict[str, Any], folder: str, cluster: dict[str, Any]) -> float | None:
    """Replace a token file and a plugin of a user by what they give; until when that is good."""
    if user.get("tokenFile"):
        path = os.path.join(folder, user.pop("tokenFile"))  # noqa: PTH118 - a text
        user["token"] = _small(path, _LONGEST_TOKEN).decode().strip()
        if not user["token"]:
            raise OSError(f"the tokenFile {path} is empty")
        return time.time() + TOKEN_FOR
    if not user.get("exec") or user.get("token"):
        return None
    given = run_plugin(user.pop("exec"), folder, cluster)
    if given.token:
        user["token"] = given.token
    else:
        for key, text in (("certificate", given.certificate), ("key", given.key)):
            user[f"client-{key}-data"] = base64.b64encode((text or "").encode()).decode()
    return None if given.until is None else given.until - EARLY


def _check_server(where: str, server: Any) -> None:
    """Raises OSError if it is not the URL of a server; its text does not repeat a password."""
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
    """The Authorization header. Raises OSError if its credential is empty or cannot be sent."""
    scheme, _, secret = text.strip().partition(" ")
    if not secret.strip() or not all("!" <= letter <= "~" for letter in secret.strip()):
        raise OSError("the token is empty, or has characters that no token has")
    return f"{scheme} {secret.strip()}"


def _small(path: str, most: int) -> bytes:
    """The content of a file. Raises OSError, also for more than ``most`` bytes."""
    with Path(path).expanduser().open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(f"{path} is larger than {most >> 10} KiB")
    return content


def default_kubeconfig() -> str | None:
    """The kubeconfig that kubectl would take: of KUBECONFIG, or in the home folder; None without one."""
    named = os.environ.get("KUBECONFIG")
    home = Path.home() / ".kube" / "config"
    return named or (str(home) if home.exists() else None)
