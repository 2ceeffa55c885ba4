"""Credential plugins of a kubeconfig (``exec``), client.authentication.k8s.io/v1 and v1beta1.

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

SECONDS = 60.0
"""Seconds that a plugin has."""
LONGEST = 1 << 20
"""Bytes of its output."""
_TOLD = 200
"""Characters of what it writes to stderr that an error repeats."""


class PluginError(Exception):
    """The plugin gave no usable credential; the sentence does not contain its output."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a plugin gave: a token, or a certificate and a key in PEM. until: epoch seconds; None for no end."""

    token: str | None = None
    certificate: str | None = None
    key: str | None = None
    until: float | None = None


def run_plugin(given: Mapping[str, Any], folder: str, cluster: Mapping[str, Any]) -> Credential:
    """Run the plugin of a kubeconfig's user. Raises PluginError.

    given: the value of ``exec``. folder: of the kubeconfig, to which a relative command belongs. cluster: of the
    context, for ``provideClusterInfo``.
    """
    command, version = given.get("command"), given.get("apiVersion")
    if not isinstance(command, str) or not command or not isinstance(version, str):
        raise PluginError("exec needs `command` and `apiVersion`")
    asked: dict[str, Any] = {"interactive": sys.stdin is not None and sys.stdin.isatty()}
    if given.get("provideClusterInfo"):
        asked["cluster"] = dict(cluster)
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": asked}
    own = {one["name"]: one["value"] for one in given.get("env") or ()}
    environment = {**os.environ, **own, "KUBERNETES_EXEC_INFO": json.dumps(info)}
    arguments = [command, *map(str, given.get("args") or ())]
    try:
        output = _output(arguments, folder or None, environment, quiet=not asked["interactive"])
    except OSError as error:
        raise PluginError(f"the plugin {command} does not start: {error.strerror}") from None
    return _credential(output, version, command)


def _output(
    arguments: list[str], folder: str | None, environment: Mapping[str, str], *, quiet: bool
) -> bytes:
    """What the plugin writes to stdout. Raises PluginError, OSError. quiet: nobody is there to be asked."""
    name = arguments[0]
    with subprocess.Popen(
        arguments, cwd=folder, env=environment, start_new_session=quiet,
        stdin=subprocess.DEVNULL if quiet else None, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if quiet else None,
    ) as process:  # fmt: skip
        try:
            output, said = _read(process, name)
            code = process.wait()
        except BaseException:
            _kill(process, group=quiet)
            raise
    if code != 0:
        told = " ".join(said.decode("utf-8", "replace").split())[:_TOLD]
        raise PluginError(f"the plugin {name} exits with {code}{': ' if told else ''}{told}")
    return output


def _read(process: subprocess.Popen[bytes], name: str) -> tuple[bytes, bytes]:
    """What it writes to stdout, and the beginning of what it writes to stderr. Raises PluginError."""
    until = time.monotonic() + SECONDS
    kept: dict[IO[bytes], bytearray] = {}
    with selectors.DefaultSelector() as selector:
        for stream in filter(None, (process.stdout, process.stderr)):
            selector.register(stream, selectors.EVENT_READ)
            kept[stream] = bytearray()
        while selector.get_map():
            ready = selector.select(max(0.0, until - time.monotonic()))
            if not ready:
                raise PluginError(f"the plugin {name} takes longer than {SECONDS:.0f} seconds")
            for key, _ in ready:
                data = os.read(key.fd, 65_536)
                stream = next(one for one in kept if one is key.fileobj)
                if not data:
                    selector.unregister(stream)
                elif stream is process.stdout or len(kept[stream]) < _TOLD * 4:
                    kept[stream] += data
                if len(kept[stream]) > LONGEST:
                    raise PluginError(f"the plugin {name} writes more than {LONGEST >> 20} MiB")
    output = bytes(kept[process.stdout]) if process.stdout else b""
    return output, bytes(kept[process.stderr]) if process.stderr else b""


def _kill(process: subprocess.Popen[bytes], *, group: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _credential(output: bytes, version: str, name: str) -> Credential:
    """The credential in an output. Raises PluginError."""
    try:
        said = json.loads(output)
        status = said["status"]
        if said["apiVersion"] != version or said["kind"] != "ExecCredential":
            raise PluginError(f"the plugin {name} does not give an ExecCredential of {version}")
        token, certificate, key = (
            status.get(what) for what in ("token", "clientCertificateData", "clientKeyData")
        )
        end = status.get("expirationTimestamp")
        until = parse_time(end) / 1e9 if end else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise PluginError(f"the plugin {name} does not give a valid ExecCredential") from None
    whole = isinstance(token, str) and token.strip()
    if not whole and not (
        isinstance(certificate, str) and certificate and isinstance(key, str) and key
    ):
        raise PluginError(f"the plugin {name} gives neither a token nor a certificate with its key")
    return Credential(token.strip() if whole else None, certificate, key, until)
