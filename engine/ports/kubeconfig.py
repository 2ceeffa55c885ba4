"""Where the API server is and who we are there: a kubeconfig, or what a pod is given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class ConnectionSettingsError(Exception):
    """No usable credentials: a kubeconfig that is missing or broken, or no ServiceAccount mounted."""


def client_settings(kubeconfig: str | None, context: str | None) -> Any:
    """The client's settings, read now. Raises ConnectionSettingsError."""
    import urllib3  # noqa: PLC0415 - loaded with the client
    import yaml  # noqa: PLC0415 - the same
    from kubernetes import config  # noqa: PLC0415 - the same
    from kubernetes.client import Configuration  # noqa: PLC0415 - the same

    settings = Configuration()
    settings.retries = urllib3.Retry(0, redirect=0, respect_retry_after_header=False)
    try:
        if kubeconfig or context:
            config.load_kube_config(  # type: ignore[no-untyped-call]
                kubeconfig, context, settings, persist_config=False
            )
        else:
            config.load_incluster_config(settings)  # type: ignore[no-untyped-call]
    except (config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError) as error:
        which = f"--kubeconfig {kubeconfig}: " if kubeconfig else ""
        raise ConnectionSettingsError(which + " ".join(str(error).split())) from None
    return settings


def default_kubeconfig() -> str | None:
    """The kubeconfig that kubectl would take: of KUBECONFIG, or in the home folder; None without one."""
    named = os.environ.get("KUBECONFIG")
    home = Path.home() / ".kube" / "config"
    return named or (str(home) if home.exists() else None)
