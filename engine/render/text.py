"""Text for a terminal: foreign strings are data there, not lines, colors or directions.

``clean`` is for a foreign string that becomes part of a line, ``say`` for a line, ``echo`` for a document that
its own format has escaped, ``json_line`` for JSON that a terminal may show.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from typing import TYPE_CHECKING

import click

from engine.model.safe_text import printable

if TYPE_CHECKING:
    from typing import TextIO

MAX_WIDTH = 200
_HANG = 4
"""Columns by which the rest of a wrapped line stands further right than its beginning."""
_PLAIN_WIDTH = 80
"""Columns of a terminal that does not know its width."""
_COLOR = re.compile(r"(\x1b\[[0-9;]*m)")
_PARTS = re.compile(r"\x1b\[[0-9;]*m| +|[^ \x1b]+|\x1b")


def short(text: str, width: int = MAX_WIDTH) -> str:
    """Cleaned text, cut to a width."""
    text = printable(text[: width * 2])
    return text if len(text) <= width else text[: width - 1] + "…"


def echo(text: str, *, err: bool = False) -> None:
    """Print a document, as JSON or XML, whose format has escaped what it holds.

    Colors only on a terminal and without NO_COLOR.
    """
    stream = sys.stderr if err else sys.stdout
    color = stream.isatty() and not os.environ.get("NO_COLOR")
    click.echo(text, err=err, color=color)


def say(line: str = "", *, err: bool = False) -> None:
    """Print a line for people, with all escaped but its colors; wrapped to the width of a terminal."""
    stream = sys.stderr if err else sys.stdout
    parts = _COLOR.split(line)
    line = "".join(printable(part) if n % 2 == 0 else part for n, part in enumerate(parts))
    echo(wrap(line, width(stream)) if stream.isatty() else line, err=err)


def width(stream: TextIO) -> int:
    """The columns of a terminal; COLUMNS goes first, as in other programs."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _PLAIN_WIDTH
    except (OSError, ValueError):  # closed, or no file at all
        return _PLAIN_WIDTH


def wrap(line: str, columns: int) -> str:
    """One line as lines of at most so many columns, broken at blanks where there are any.

    What follows the first is indented further. Colours count nothing, and wide characters two columns.
    """
    hang = min(len(line) - len(line.lstrip(" ")) + _HANG, columns // 2)
    out: list[str] = []
    used = start = gap = (
        0  # columns: written, where the current line starts, blanks not written yet
    )
    for part in _PARTS.findall(line):
        if part[0] == "\x1b":
            out.append(part)
            continue
        if part[0] == " ":
            gap += len(part)
            continue
        for piece in _pieces(part, columns - hang):
            if used == 0:
                gap = min(gap, hang)
            elif used > start and used + gap + cells(piece) > columns:
                out.append("\n" + " " * hang)
                used, start, gap = hang, hang, 0
            out.append(" " * gap + piece)
            used += gap + cells(piece)
            gap = 0
    return "".join(out)


def _pieces(word: str, columns: int) -> list[str]:
    """The word, cut where it is longer than so many columns."""
    if cells(word) <= columns:
        return [word]
    pieces, used = [""], 0
    for letter in word:
        wide = cells(letter)
        if used + wide > columns and pieces[-1]:
            pieces.append("")
            used = 0
        pieces[-1] += letter
        used += wide
    return pieces


def cells(text: str) -> int:
    """The columns of a text without escape sequences."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def count(number: int, word: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
