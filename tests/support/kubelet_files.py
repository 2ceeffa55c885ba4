"""A folder as the kubelet mounts a ConfigMap or a projected volume, with the steps of its AtomicWriter.

Source of the steps: pkg/volume/util/atomic_writer.go of Kubernetes 1.35. The user-visible names are links
through ``..data``, a link to a timestamped folder, and an update renames a new link over it.
"""

from __future__ import annotations

import itertools
import os
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def projected(
    volume: Mapping[str, Any], config_maps: Mapping[str, Mapping[str, str]]
) -> dict[str, bytes]:
    """Return the files of a projected volume: path -> content.

    volume: from the pod's spec, with ConfigMaps only. config_maps: name -> data. Raises KeyError if a ConfigMap
    or a key is missing and not optional. The last source wins if two have the same path.
    """
    files: dict[str, bytes] = {}
    for source in volume["projected"]["sources"]:
        one = source["configMap"]
        if one.get("optional") and one["name"] not in config_maps:
            continue
        data = config_maps[one["name"]]
        paths = {it["key"]: it["path"] for it in one.get("items", ())} or {key: key for key in data}
        files |= {path: data[key].encode() for key, path in paths.items()}
    return files


class Mount:
    """A ConfigMap or projected volume that is mounted at ``folder``. A name of a file can contain folders."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self.folder = folder
        self._versions = itertools.count()
        folder.mkdir(parents=True, exist_ok=True)
        self.write(files)

    def write(self, files: Mapping[str, bytes]) -> None:
        """Replace the content with another version of the ConfigMap."""
        data, before = self.folder / "..data", None
        if data.is_symlink():
            before = self.folder / os.readlink(data)  # noqa: PTH115 - as Go's os.Readlink
        made = self.folder / f"..2026_03_01_10_00_00.{next(self._versions):09d}"
        made.mkdir()
        for name, content in files.items():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(content)
        half = self.folder / "..data_tmp"
        half.symlink_to(made.name)
        half.rename(data)
        names = {name.partition("/")[0] for name in files}
        for name in names:
            link = self.folder / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        for link in self.folder.iterdir():
            if not link.name.startswith("..") and link.name not in names:
                link.unlink()
        if before is not None:
            shutil.rmtree(before)
