"""The page of the architecture names files that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()


def test_each_file_and_package_that_the_page_names_exists():
    named = set(re.findall(r"`(engine/[\w/]+(?:\.py|/))`", PAGE))
    assert len(named) > 30
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_each_package_is_on_the_page():
    packages = {path.parent.name for path in ROOT.glob("engine/*/__init__.py")}
    assert [name for name in sorted(packages) if f"`engine/{name}/`" not in PAGE] == []
