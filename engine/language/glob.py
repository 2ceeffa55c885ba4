"""The globs of the operator ``glob``. Globs of rule and host names are simpler (engine.model.name_patterns)."""

from __future__ import annotations

import re

import re2

_ITEM = re.compile(
    r"\[:(?:alnum|alpha|blank|cntrl|digit|graph|lower|print|punct|space|upper|xdigit):\]"
    r"|\\(?P<escaped>.)|(?P<letter>.)",
    re.DOTALL,
)
"""One item inside brackets: a class of POSIX, an escaped letter, or a letter."""


def glob_expression(glob: str) -> str:
    """Return the RE2 expression of a glob as in fnmatch(3) and Falco's ``glob``. ``*`` also matches slashes."""
    parts, at = [], 0
    all_closed = True
    while at < len(glob):
        char, at = glob[at], at + 1
        if char == "*":
            parts.append(".*")
        elif char == "?":
            parts.append(".")
        elif char == "\\" and at < len(glob):
            parts.append(re2.escape(glob[at]))
            at += 1
        elif char == "[" and all_closed and (bracket := _read_bracket(glob, at)):
            expression, at = bracket
            parts.append(expression)
        else:
            # no later bracket closes either; to look for its end again would take quadratic time
            all_closed = all_closed and char != "["
            parts.append(re2.escape(char))
    return f"(?s)\\A(?:{''.join(parts)})\\z"


def _read_bracket(glob: str, at: int) -> tuple[str, int] | None:
    """Return the expression of the bracket that opens before ``at``, and its end. None if it does not close."""
    negation = "^" if glob[at : at + 1] in ("!", "^") else ""
    at += len(negation)
    parts: list[str] = []
    while item := _ITEM.match(glob, at):
        at = item.end()
        if item["letter"] == "]" and parts:
            return f"[{negation}{''.join(parts)}]", at
        if item["letter"] == "-":
            parts.append("-")
        else:
            letter = item["letter"] or item["escaped"]
            parts.append(re2.escape(letter) if letter else item[0])
    return None
