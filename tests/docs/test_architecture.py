"""The page of the architecture and CONTRIBUTING.md name files that exist, and the imports follow the page."""

from __future__ import annotations

import re
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/architecture.md").read_text()


def test_each_file_and_package_that_the_pages_name_exists():
    text = PAGE + (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:engine|tests|docs|kustomize|tiercel)/[\w/]+(?:\.py|/))`", text))
    named -= {"engine/NAME/", "tests/NAME/", "engine/actions/thing_verb.py", "engine/cli/NAME.py"}
    assert len(named) > 60
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_each_package_is_on_the_page():
    packages = {path.parent.name for path in ROOT.glob("engine/*/__init__.py")}
    assert [name for name in sorted(packages) if f"`engine/{name}/`" not in PAGE] == []


def test_no_files_import_each_other():
    graph = grimp.build_graph("engine", exclude_type_checking_imports=True, cache_dir=None)
    files = [module for module in graph.modules if not _is_package(module)]
    cycles = {
        frozenset((module, imported))
        for module in files
        for imported in graph.find_modules_directly_imported_by(module)
        if graph.chain_exists(importer=imported, imported=module)
    }
    assert cycles == set()


def _is_package(module: str) -> bool:
    return (ROOT / module.replace(".", "/")).is_dir()
