"""Hooks of mkdocs.

The navigation is that of docs/README.md, with the pages of docs/actions/ below the page of all actions. A link
whose text is the name of a page shows its title. Links to files outside docs/ lead to the repository. A Mermaid
diagram is shown as the file that docs/diagrams.py drew.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.exceptions import PluginError

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

HOME = "README.md"
ACTIONS = "actions.md"
DIAGRAMS = "assets/diagrams"
_SECTION = re.compile(r"^## (.+)$")
_ENTRY = re.compile(r"^- \[[^\]]+\]\(([^)#:]+\.md)\)")
_LINK = re.compile(r"(\]\()(\.\./[^)#\s]*)(#[^)\s]*)?(\))")
_BY_NAME = re.compile(r"\[([\w-]+\.md)\](\(\1(?:#[^)]*)?\))")
_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
_DIAGRAM = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FENCE = re.compile(r"^ *(`{3,})")


def navigation(index: str) -> list[dict[str, Any]]:
    """Return the navigation of mkdocs for an index page: one section per heading, one page per list entry."""
    sections: list[dict[str, Any]] = [{"Overview": HOME}]
    for line in index.splitlines():
        if heading := _SECTION.match(line):
            sections.append({heading[1]: []})
        elif (entry := _ENTRY.match(line)) and len(sections) > 1:
            next(iter(sections[-1].values())).append(entry[1])
    return sections


def add_actions(sections: list[dict[str, Any]], pages: list[str]) -> list[dict[str, Any]]:
    """Return the navigation with the pages of the actions below the page of all actions."""
    below = {"Actions": [ACTIONS, *({Path(page).stem: page} for page in pages)]}
    return [
        {
            name: [below if entry == ACTIONS else entry for entry in entries]
            if isinstance(entries, list)
            else entries
        }
        for section in sections
        for name, entries in section.items()
    ]


def diagrams(markdown: str) -> list[str]:
    """Return the sources of the Mermaid diagrams of a page."""
    return _DIAGRAM.findall(markdown)


def diagram_file(source: str) -> str:
    """Return the name of the file with the drawn diagram."""
    return f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.svg"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set the navigation."""
    docs = Path(config.docs_dir)
    pages = sorted(f"actions/{page.name}" for page in docs.glob("actions/*.md"))
    config.nav = add_actions(navigation((docs / HOME).read_text(encoding="utf-8")), pages)
    return config


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Turn links that leave docs/ into links to the repository. Raise PluginError for a missing file."""
    docs = Path(config.docs_dir)

    def leave(link: re.Match[str]) -> str:
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(page.file.src_uri), link[2]))
        target = docs / inside
        if not target.exists():
            raise PluginError(f"{page.file.src_uri}: the link {link[2]} leads to no file")
        kind = "tree" if target.is_dir() else "blob"
        path = posixpath.normpath(posixpath.join(docs.name, inside))
        return f"{link[1]}{config.extra['repository']}/{kind}/main/{path}{link[3] or ''}{link[4]}"

    def show(diagram: re.Match[str]) -> str:
        name = diagram_file(diagram[1])
        if not (docs / DIAGRAMS / name).exists():
            return diagram[0]
        return f"![Diagram: {page.title}]({DIAGRAMS}/{name}){{ .diagram }}"

    def entitle(link: re.Match[str]) -> str:
        target = docs / link[1]
        title = _TITLE.search(target.read_text(encoding="utf-8")) if target.exists() else None
        return f"[{title[1] if title else link[1]}]{link[2]}"

    return "".join(
        text if is_code else _LINK.sub(leave, _BY_NAME.sub(entitle, text))
        for text, is_code in _split(_DIAGRAM.sub(show, markdown))
    )


def _split(markdown: str) -> list[tuple[str, bool]]:
    """Split a page into lines, each with whether it is part of a fenced block."""
    lines, fence = [], ""
    for line in markdown.splitlines(keepends=True):
        mark = _FENCE.match(line)
        lines.append((line, bool(fence or mark)))
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip() == fence:
            fence = ""
    return lines
