"""requirements-run.txt: the packages of the image, each pinned by its hash."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
# The image can share a journal (docs/replicas.md).
RUNTIME = [Requirement(text) for text in [*PROJECT["project"]["dependencies"], *EXTRAS["postgres"]]]
# The backend builds the package in the image. pip-compile adds editables, for `pip install --editable`.
BUILD = [Requirement(text) for text in [*PROJECT["build-system"]["requires"], "editables"]]


def pins(file):
    """Return the pinned version of each package of a requirements file. Each must have a hash."""
    joined = re.sub(r"\\\n\s*", " ", (ROOT / file).read_text())
    lines = [line.split("#")[0].strip() for line in joined.splitlines()]
    found = {}
    for line in filter(None, lines):
        requirement, *hashes = line.split(" --hash=sha256:")
        assert hashes, line
        name, version = requirement.strip().split("==")
        found[canonicalize_name(name.split("[")[0])] = version
    return found


def closure(requirements):
    """Return the names of the packages that requirements need, as the installed packages say."""
    names, waiting = set(), [(one, one.extras) for one in requirements]
    seen = set()
    while waiting:
        one, extras = waiting.pop()
        name = canonicalize_name(one.name)
        names.add(name)
        if (name, frozenset(extras)) in seen:
            continue
        seen.add((name, frozenset(extras)))
        for text in requires(name) or []:
            needed = Requirement(text)
            environments = [{"extra": extra} for extra in ("", *extras)]
            if not needed.marker or any(needed.marker.evaluate(e) for e in environments):
                waiting.append((needed, needed.extras))
    return names


@pytest.mark.parametrize("requirement", RUNTIME, ids=lambda one: one.name)
def test_each_dependency_is_pinned_within_its_range(requirement):
    version = pins("requirements-run.txt")[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)


def test_the_image_has_the_packages_that_the_engine_and_its_build_need_and_no_others():
    assert set(pins("requirements-run.txt")) == closure(RUNTIME + BUILD)


def test_tools_of_the_development_are_not_in_the_image():
    tools = {canonicalize_name(Requirement(text).name) for text in EXTRAS["dev"] + EXTRAS["docs"]}
    assert {"pytest", "mypy", "mkdocs"} <= tools
    needed = {"cryptography", "psycopg"}  # also by google-auth, and for a shared journal
    assert (tools - needed).isdisjoint(pins("requirements-run.txt"))


def test_the_tests_use_the_versions_of_the_image():
    tested = pins("requirements.txt")
    assert {name: tested.get(name) for name in pins("requirements-run.txt")} == pins(
        "requirements-run.txt"
    )
