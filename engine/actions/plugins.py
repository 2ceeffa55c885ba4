"""Actions in other Python packages, found by their entry point ``tiercel.actions``.

An entry point names a module. Its import registers the actions with ``@action``.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from importlib.metadata import EntryPoint

    from engine.actions.registry import Action

GROUP = "tiercel.actions"
_METADATA = (".dist-info", ".egg-info")


class PluginError(Exception):
    """A plugin cannot be used. The message names its distribution and says what to do."""


def load_plugins(registry: MutableMapping[str, Action]) -> None:
    """Import the plugins of all installed packages. Either all of their actions are registered, or none.

    registry: where ``@action`` registers. Raises PluginError.
    """
    if not _is_installed():
        return
    from importlib.metadata import entry_points  # noqa: PLC0415 - 10 ms that only plugins need

    own = dict(registry)
    try:
        for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
            _load(point, registry)
    except PluginError:
        registry.clear()
        registry.update(own)
        raise


def _is_installed() -> bool:
    """Return whether a distribution has the entry point.

    ``importlib.metadata`` parses the metadata of every distribution. This takes a hundred times as long, and
    every command loads the actions.
    """
    group = f"[{GROUP}]".encode()
    for folder in sys.path:
        try:
            with os.scandir(folder or ".") as entries:
                found = [entry.path for entry in entries if entry.name.endswith(_METADATA)]
        except OSError:  # an archive, or a folder that does not exist
            continue
        for path in found:
            try:
                with open(os.path.join(path, "entry_points.txt"), "rb") as file:  # noqa: PTH118, PTH123 - fast
                    if group in file.read():
                        return True
            except OSError:  # it has no entry points
                continue
    return False


def _load(point: EntryPoint, registry: MutableMapping[str, Action]) -> None:
    """Import the module of an entry point. Raises PluginError."""
    before = set(registry)
    try:
        point.load()
    except Exception as error:  # a plugin can raise anything; the message must name it
        raise PluginError(_message(point, f"{type(error).__name__}: {error}"[:500])) from error
    if set(registry) == before:
        raise PluginError(_message(point, "its module does not register an action with @action"))


def _message(point: EntryPoint, what: str) -> str:
    dist = point.dist
    name, version = (dist.metadata["Name"], dist.version) if dist else (point.value, "")
    plugin = f"the plugin {name} {version} (entry point {point.name} = {point.value})"
    return f"{plugin} cannot be used: {what}. Repair it, or remove it: pip uninstall {name}"
