"""Credential plugins of a kubeconfig (``exec``): client.authentication.k8s.io/v1 and v1beta1.

https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.model.event import parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

TIMEOUT = 60.0
"""Seconds that a plugin may run."""
MAX_OUTPUT = 1 << 20
"""Bytes that a plugin may write."""
_MAX_STDERR = 200
"""Characters of stderr in an error message."""


class PluginError(Exception):
    """The plugin returned no usable credential. The message does not contain its output."""


@dataclass(frozen=True, slots=True)
class Credential:
    """The result of a plugin: a token, or a certificate and key in PEM.

    expires_at: epoch seconds; None if it does not expire.
    """

    token: str | None = None
    certificate: str | None = None
    key: str | None = None
    expires_at: float | None = None


def run_plugin(config: Mapping[str, Any], folder: str, cluster: Mapping[str, Any]) -> Credential:
    """Run the plugin of a kubeconfig's user and return its credential. Raises PluginError.

    config: the value of ``exec``. folder: the folder of the kubeconfig; a relative command starts there.
    cluster: the cluster of the context, for ``provideClusterInfo``.
    """
    command, version = config.get("command"), config.get("apiVersion")
    if not isinstance(command, str) or not command or not isinstance(version, str):
        raise PluginError("`exec` needs `command` and `apiVersion`")
    spec: dict[str, Any] = {"interactive": sys.stdin is not None and sys.stdin.isatty()}
    if config.get("provideClusterInfo"):
        spec["cluster"] = dict(cluster)
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    variables = {one["name"]: one["value"] for one in config.get("env") or ()}
    environment = {**os.environ, **variables, "KUBERNETES_EXEC_INFO": json.dumps(info)}
    arguments = [command, *map(str, config.get("args") or ())]
    try:
        output = _output(arguments, folder or None, environment, quiet=not spec["interactive"])
    except OSError as error:
        raise PluginError(f"the plugin {command} cannot be started: {error.strerror}") from None
    return _credential(output, version, command)


def _output(
    arguments: list[str], folder: str | None, environment: Mapping[str, str], *, quiet: bool
) -> bytes:
    """Run a command and return its stdout. Raises PluginError, OSError.

    quiet: no user can answer questions, so stdin is closed and stderr is captured.
    """
    name = arguments[0]
    with subprocess.Popen(
        arguments, cwd=folder, env=environment, start_new_session=quiet,
        stdin=subprocess.DEVNULL if quiet else None, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if quiet else None,
    ) as process:  # fmt: skip
        try:
            output, stderr = _read(process, name)
            code = process.wait()
        except BaseException:  # also Ctrl-C: the plugin must not continue
            _kill(process, group=quiet)
            raise
    if code != 0:
        reason = " ".join(stderr.decode("utf-8", "replace").split())[:_MAX_STDERR]
        raise PluginError(f"the plugin {name} exits with {code}{': ' if reason else ''}{reason}")
    return output


def _read(process: subprocess.Popen[bytes], name: str) -> tuple[bytes, bytes]:
    """Return the stdout of a plugin and the beginning of its stderr. Raises PluginError."""
    deadline = time.monotonic() + TIMEOUT
    kept: dict[IO[bytes], bytearray] = {}
    with selectors.DefaultSelector() as selector:
        for stream in filter(None, (process.stdout, process.stderr)):
            selector.register(stream, selectors.EVENT_READ)
            kept[stream] = bytearray()
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise PluginError(f"the plugin {name} takes longer than {TIMEOUT:.0f} seconds")
            for key, _ in ready:
                data = os.read(key.fd, 65_536)
                stream = next(one for one in kept if one is key.fileobj)
                if not data:
                    selector.unregister(stream)
                elif stream is process.stdout or len(kept[stream]) < _MAX_STDERR * 4:
                    kept[stream] += data
                if len(kept[stream]) > MAX_OUTPUT:
                    raise PluginError(f"the plugin {name} writes more than {MAX_OUTPUT >> 20} MiB")
    output = bytes(kept[process.stdout]) if process.stdout else b""
    return output, bytes(kept[process.stderr]) if process.stderr else b""


def _kill(process: subprocess.Popen[bytes], *, group: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _credential(output: bytes, version: str, name: str) -> Credential:
    """Return the credential in the output of a plugin. Raises PluginError."""
    try:
        answer = json.loads(output)
        status = answer["status"]
        if answer["apiVersion"] != version or answer["kind"] != "ExecCredential":
            raise PluginError(f"the plugin {name} does not return an ExecCredential of {version}")
        token, certificate, key = (
            status.get(what) for what in ("token", "clientCertificateData", "clientKeyData")
        )
        expiry = status.get("expirationTimestamp")
        expires_at = parse_time(expiry) / 1e9 if expiry else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise PluginError(f"the plugin {name} does not return a valid ExecCredential") from None
    has_token = isinstance(token, str) and token.strip()
    if not has_token and not (
        isinstance(certificate, str) and certificate and isinstance(key, str) and key
    ):
        raise PluginError(
            f"the plugin {name} returns neither a token nor a certificate with its key"
        )
    return Credential(token.strip() if has_token else None, certificate, key, expires_at)
