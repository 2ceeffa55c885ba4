"""The documentation site: a strict build, every page in the navigation, nothing from other hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from docs.site_hooks import navigation
from tests.support.engine import ROOT

SECTIONS = [
    "Concepts",
    "Tutorial",
    "How-to guides",
    "Reference",
    "Operations",
    "Security",
    "Design",
]
# Attributes with which a page loads something. A link (`a href`) loads nothing.
LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "link": "href",
    "object": "data",
}
LINKS_ONLY = {"canonical", "prev", "next", "alternate", "edit"}


def build(config, site):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--config-file", config, "-d", site],
        cwd=config.parent,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


class Loaded(HTMLParser):
    """What a page loads, and the hosts that it asks a browser to connect to."""

    def __init__(self, text):
        super().__init__()
        self.addresses = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "link" and values.get("rel") in LINKS_ONLY:
            return
        if address := values.get(LOADS.get(tag, "")):
            self.addresses.append(address)


def test_every_page_of_the_documentation_is_in_the_site_and_in_the_navigation(site):
    home = (site / "index.html").read_text()
    docs = ROOT / "docs"
    pages = {str(page.relative_to(docs).with_suffix("")) for page in docs.rglob("*.md")} - {
        "README"
    }
    assert len(pages) > 14
    assert "actions/pod.isolate" in pages
    assert {page for page in pages if f'href="{page}.html" class="md-nav__link"' in home} == pages
    assert not list(site.glob("*.py"))


def test_the_navigation_has_the_sections_of_the_documentation_in_order(site):
    sections = navigation((ROOT / "docs/README.md").read_text())
    assert [next(iter(section)) for section in sections[1:]] == SECTIONS
    home = (site / "index.html").read_text()
    places = [home.index(f'<span class="md-ellipsis">\n    \n  \n    {name}') for name in SECTIONS]
    assert places == sorted(places)


def test_the_site_loads_nothing_from_another_host(site):
    pages = list(site.rglob("*.html"))
    loaded = {(page.name, one) for page in pages for one in Loaded(page.read_text()).addresses}
    assert len(loaded) > len(pages)
    assert [one for one in loaded if re.match(r"(?i)(https?:)?//", one[1])] == []
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)]*", sheet.read_text()) == []


def test_links_to_files_of_the_repository_lead_to_the_code_host(site):
    host = r'href="https://github\.com/tiercel/tiercel/(blob|tree)/main/([^"#]+)'
    found = {link for page in site.glob("*.html") for link in re.findall(host, page.read_text())}
    assert ("blob", "playbooks/events/vistatech.json") in found
    assert len(found) > 10
    for kind, path in found:
        assert (ROOT / path).is_dir() is (kind == "tree"), path


def test_a_page_outside_the_navigation_a_dead_link_and_a_dead_anchor_stop_the_build(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (tmp_path / "mkdocs.yml").write_text((ROOT / "mkdocs.yml").read_text())
    (docs / "site_hooks.py").write_text((ROOT / "docs/site_hooks.py").read_text())
    (docs / "README.md").write_text("# Home\n\n## Concepts\n\n- [a](a.md): the first page\n")
    (docs / "a.md").write_text("# A\n\n[dead](gone.md) [anchor](README.md#nowhere)\n")
    (docs / "forgotten.md").write_text("# Forgotten\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    assert 'not included in the "nav" configuration:\n  - forgotten.md' in done.stderr
    assert "link 'gone.md', but the target is not found" in done.stderr
    assert "does not contain an anchor '#nowhere'" in done.stderr


def test_a_link_that_leaves_the_documentation_must_lead_to_a_file(tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (tmp_path / "mkdocs.yml").write_text((ROOT / "mkdocs.yml").read_text())
    (docs / "site_hooks.py").write_text((ROOT / "docs/site_hooks.py").read_text())
    (docs / "README.md").write_text("# Home\n\n[gone](../kustomize/gone.yaml)\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    assert "README.md: the link ../kustomize/gone.yaml leads to no file" in done.stderr
