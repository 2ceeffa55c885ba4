"""A folder as the kubelet mounts a ConfigMap, with the steps of its AtomicWriter.

Source of the steps: pkg/volume/util/atomic_writer.go of Kubernetes 1.35. The user-visible names are links
through ``..data``, a link to a timestamped folder, and an update renames a new link over it.
"""

from __future__ import annotations

import itertools
import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Mount:
    """A ConfigMap that is mounted at ``folder``."""

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
            (made / name).write_bytes(content)
        half = self.folder / "..data_tmp"
        half.symlink_to(made.name)
        half.rename(data)
        for name in files:
            link = self.folder / name
            if not link.is_symlink():
                link.symlink_to(f"..data/{name}")
        for link in self.folder.iterdir():
            if not link.name.startswith("..") and link.name not in files:
                link.unlink()
        if before is not None:
            shutil.rmtree(before)
