"""The globs of the operator ``glob``; those of rules' and hosts' names know less (engine.planning.matcher)."""

from __future__ import annotations

import re2


def glob_expression(glob: str) -> str:
    """The RE2 expression of fnmatch(3)'s glob, as Falco's ``glob`` has it; its star crosses slashes."""
    parts, at = [], 0
    while at < len(glob):
        letter, at = glob[at], at + 1
        if letter == "*":
            parts.append(".*")
        elif letter == "?":
            parts.append(".")
        elif letter == "\\" and at < len(glob):
            parts.append(re2.escape(glob[at]))
            at += 1
        elif letter == "[" and (end := _bracket_end(glob, at)):
            inner = glob[at:end]
            negated = "^" if inner[0] in "!^" else ""
            body = inner[1:] if negated else inner
            parts.append(f"[{negated}{_bracket_body(body)}]")
            at = end + 1
        else:
            parts.append(re2.escape(letter))
    return f"(?s)\\A(?:{''.join(parts)})\\z"


def _bracket_end(glob: str, at: int) -> int:
    """Where the bracket that opens before ``at`` closes; 0 where it never does and is itself."""
    start = at + 1 if glob[at : at + 1] in ("!", "^") else at
    return max(glob.find("]", start + 1), 0)


def _bracket_body(body: str) -> str:
    return "".join(c if c == "-" else re2.escape(c) for c in body)
