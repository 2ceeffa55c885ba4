"""The characters of a YAML file: which of them readers see differently, and hints where YAML ends at one.

libyaml follows YAML 1.1 and takes U+0085, U+2028 and U+2029 for line breaks; YAML 1.2, editors and Git do
not. What an editor shows as part of a comment would otherwise be in force.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from engine.model.errors import Finding, Location

if TYPE_CHECKING:
    from collections.abc import Iterator

_ODD = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_BREAKS = "\x85\u2028\u2029"
_MARK = "\ufeff"
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200b\u202f\u205f\u2060\u3000]")
"""Characters that look like a space, or like nothing, and are letters to YAML."""
_INDICATORS = "%@`"


def checked(text: str, file: str, most: int) -> tuple[str, list[Finding]]:
    """The text with line breaks of YAML 1.1 as spaces and without byte order marks, and findings for each.

    Lines and columns are those of the text. At most ``most`` findings. A control character, which YAML
    does not allow, ends the text.
    """
    findings: list[Finding] = []
    for where, letter in _places(text):
        if letter in _BREAKS:
            what = f"{_name(letter)} is a line break to some YAML readers only"
            code, hint = "yaml-trap", f'remove it, or write "\\u{ord(letter):04x}" in double quotes'
        elif letter == _MARK:
            what = "a byte order mark (U+FEFF) within the file"
            code, hint = "yaml-syntax", "remove it; files that are joined keep theirs"
        else:
            code, what, hint = "yaml-syntax", f"YAML does not allow {_name(letter)}", None
        findings.append(Finding(Location(file, *where), code, what, hint))
        if code == "yaml-syntax" and letter != _MARK:
            return "", findings
        if len(findings) == most:
            what = f"more than {most:,} mistakes: the rest of the file is not told"
            return "", [*findings[:-1], Finding(Location(file, *where), "yaml-limit", what)]
    if findings:
        text = text.translate({**dict.fromkeys(map(ord, _BREAKS), " "), ord(_MARK): None})
    return text, findings


def _places(text: str) -> Iterator[tuple[tuple[int, int], str]]:
    """Each odd character with its line and column, both from 1."""
    line, start, done = 1, 0, 0
    for found in _ODD.finditer(text):
        at = found.start()
        breaks = text.count("\n", done, at) + text.count("\r", done, at)
        if breaks:
            line += breaks - text.count("\r\n", done, at)
            start = max(text.rfind("\n", done, at), text.rfind("\r", done, at)) + 1
        done = at
        yield (line, at - start + 1), found[0]


def _name(letter: str) -> str:
    return f"U+{ord(letter):04X}"


def blank(text: str, *, within: bool = False) -> str | None:
    """The character that looks like a space at an end of the text (or within it), or None."""
    found = _SPACES.search(text) if within else _SPACES.match(text) or _SPACES.match(text[-1:])
    return _name(found[0]) if found else None


def explained(problem: str, text: str, place: tuple[int, int]) -> tuple[str, str | None]:
    """What is wrong where libyaml stops, and a hint. place: line and column, both from 1."""
    number, column = place
    lines = text.splitlines()[max(number - 2, 0) : number]
    odd = next(filter(None, (blank(line, within=True) for line in reversed(lines))), None)
    if odd:
        return problem, f"a line here contains {odd}, which only looks like a space"
    letter = lines[-1][column - 1 : column] if lines and number <= len(text.splitlines()) else ""
    if "start any token" in problem and letter and letter in _INDICATORS:
        return f"a text without quotes cannot begin with `{letter}`", "quote the text"
    if "start any token" in problem:
        return problem, "YAML is indented with spaces"
    if "mapping values are not allowed" in problem:
        return problem, "quote a text that contains `: `; if it is a key, check its indentation"
    if "alias" in problem or "alphabetic or numeric" in problem:
        return problem, "quote a text that begins with * or &"
    return problem, None
