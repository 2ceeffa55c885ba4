"""Install the npm packages that the tests use, once, into a cache outside the checkout.

    python tests/node/install.py

package-lock.json pins each package by its hash. The name of the cache folder has the digest of
package-lock.json, so a new version is a new folder. No script of a package runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FILES = ("package.json", "package-lock.json")


def folder() -> Path:
    """Return the cache folder for the present package-lock.json. The folder may not exist yet."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:12]
    return home / "tiercel" / f"node-{digest}"


def modules() -> Path | None:
    """Return the folder node_modules, or None if it is not installed."""
    found = folder() / "node_modules"
    return found if found.is_dir() else None


def install() -> Path:
    """Install the packages, and add the folder to the cache in one step. Returns node_modules."""
    target = folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".node-", dir=target.parent) as name:
        half = Path(name) / "half"
        half.mkdir()
        for file in FILES:
            shutil.copy(HERE / file, half)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(command, cwd=half, check=True, stdout=subprocess.DEVNULL)
        try:
            half.rename(target)
        except OSError:  # another process was faster
            if modules() is None:
                raise
    return target / "node_modules"


def main() -> None:
    """Install the packages if they are missing and npm exists."""
    if modules() is None:
        if shutil.which("npm") is None or shutil.which("node") is None:
            sys.stdout.write("npm is missing; the tests that need it are skipped\n")
            return
        install()


if __name__ == "__main__":
    main()
