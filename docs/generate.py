"""Writes docs/actions.md from the actions themselves; a test holds that it is current."""

from __future__ import annotations

import sys
from pathlib import Path

from engine.actions.action import load
from engine.render.reference import action_lines

HEAD = """# The actions

Made by `python docs/generate.py` from the actions' signatures and docstrings. *notify* tells people,
*mark* leaves a mark on the target, *disrupt* is all else.
"""


def page() -> str:
    """The page's text."""
    parts = [HEAD]
    for action in sorted(load().values(), key=lambda action: action.name):
        text = "\n".join(line.rstrip() for line in action_lines(action))
        parts.append(f"## {action.name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("actions.md").write_text(page(), encoding="utf-8")
    sys.stdout.write("docs/actions.md\n")
