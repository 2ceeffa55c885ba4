"""Characters of a YAML file that readers treat differently, and better messages for syntax errors.

libyaml follows YAML 1.1, where U+0085, U+2028 and U+2029 are line breaks. In YAML 1.2, editors and Git they are
not. Without this check, text that an editor shows as part of a comment could take effect.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.model.errors import Finding, Location

if TYPE_CHECKING:
    from collections.abc import Iterator

_SPECIAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_BREAKS = "\x85\u2028\u2029"
_MARK = "\ufeff"
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200b\u202f\u205f\u2060\u3000]")
"""Characters that look like a space or are invisible, but are letters in YAML."""
_INDICATORS = "%@`"


def check_characters(text: str, file: str, max_findings: int) -> tuple[str, list[Finding]]:
    """Return the text without special line breaks and byte order marks, and a finding for each of them.

    Line breaks become spaces. Lines and columns of the findings are those of the given text. A control
    character, which YAML does not allow, ends the text.
    """
    findings: list[Finding] = []
    for where, letter in _special_characters(text):
        if letter in _BREAKS:
            what = f"{_name(letter)} is a line break for some YAML readers only"
            code, hint = "yaml-trap", f'remove it, or write "\\u{ord(letter):04x}" in double quotes'
        elif letter == _MARK:
            what = "there is a byte order mark (U+FEFF) inside the file"
            code, hint = "yaml-syntax", "remove it; it often comes from joining two files"
        else:
            code, what, hint = "yaml-syntax", f"YAML does not allow {_name(letter)}", None
        findings.append(Finding(Location(file, *where), code, what, hint))
        if code == "yaml-syntax" and letter != _MARK:
            return "", findings
        if len(findings) == max_findings:
            what = f"more than {max_findings:,} YAML findings; the rest of the file is not checked"
            return "", [*findings[:-1], Finding(Location(file, *where), "yaml-limit", what)]
    if findings:
        text = text.translate({**dict.fromkeys(map(ord, _BREAKS), " "), ord(_MARK): None})
    return text, findings


def _special_characters(text: str) -> Iterator[tuple[tuple[int, int], str]]:
    """Yield the (line, column), from 1, and the character for each special character."""
    line, start, done = 1, 0, 0
    for found in _SPECIAL.finditer(text):
        at = found.start()
        breaks = text.count("\n", done, at) + text.count("\r", done, at)
        if breaks:
            line += breaks - text.count("\r\n", done, at)
            start = max(text.rfind("\n", done, at), text.rfind("\r", done, at)) + 1
        done = at
        yield (line, at - start + 1), found[0]


def _name(letter: str) -> str:
    return f"U+{ord(letter):04X}"


def find_space(text: str, *, within: bool = False) -> str | None:
    """Return a character that looks like a space at an end of the text (within: anywhere), or None."""
    found = _SPACES.search(text) if within else _SPACES.match(text) or _SPACES.match(text[-1:])
    return _name(found[0]) if found else None


def explain_syntax_error(problem: str, text: str, place: tuple[int, int]) -> tuple[str, str | None]:
    """Return a message and a hint for a problem of libyaml. place: line and column, from 1."""
    if problem == "second occurrence":  # the rest of the sentence is in the context of the error
        return "there are two anchors of this name", "give each anchor a name of its own"
    number, column = place
    lines = text.splitlines()[max(number - 2, 0) : number]
    odd = next(filter(None, (find_space(line, within=True) for line in reversed(lines))), None)
    if odd:
        return problem, f"a line here contains {odd}, which looks like a space"
    letter = lines[-1][column - 1 : column] if lines and number <= len(text.splitlines()) else ""
    if "start any token" in problem and letter and letter in _INDICATORS:
        return f"a text without quotes cannot begin with `{letter}`", "quote the text"
    if "start any token" in problem:
        return problem, "indent YAML with spaces"
    if "mapping values are not allowed" in problem:
        return problem, "quote a text that contains `: `, or check the indentation of the key"
    if "alias" in problem or "alphabetic or numeric" in problem:
        return problem, "quote a text that begins with * or &"
    return problem, None
