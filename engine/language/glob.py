"""The globs of the operator ``glob``. Globs of rule and host names are simpler (engine.model.name_patterns)."""

from __future__ import annotations

import re2


def glob_expression(glob: str) -> str:
    """Return the RE2 expression of a glob as in fnmatch(3) and Falco's ``glob``. ``*`` also matches slashes."""
    parts, at = [], 0
    while at < len(glob):
        char, at = glob[at], at + 1
        if char == "*":
            parts.append(".*")
        elif char == "?":
            parts.append(".")
        elif char == "\\" and at < len(glob):
            parts.append(re2.escape(glob[at]))
            at += 1
        elif char == "[" and (end := _bracket_end(glob, at)):
            inner = glob[at:end]
            negation = "^" if inner[0] in "!^" else ""
            body = inner[1:] if negation else inner
            parts.append(f"[{negation}{_escape_bracket(body)}]")
            at = end + 1
        else:
            parts.append(re2.escape(char))
    return f"(?s)\\A(?:{''.join(parts)})\\z"


def _bracket_end(glob: str, at: int) -> int:
    """Return the index of the ``]`` for the bracket that opens before ``at``, or 0 if it does not close."""
    start = at + 1 if glob[at : at + 1] in ("!", "^") else at
    return max(glob.find("]", start + 1), 0)


def _escape_bracket(body: str) -> str:
    return "".join(c if c == "-" else re2.escape(c) for c in body)
