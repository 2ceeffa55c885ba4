"""Text for a terminal. Untrusted strings cannot add lines, colors or text directions.

Use ``printable`` for an untrusted string in a line, ``print_line`` for a line, and ``print_document`` for a
document whose format escapes its content.
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
"""Columns by which the continuation of a wrapped line is indented."""
_PLAIN_WIDTH = 80
"""Columns if the width of the terminal is not known."""
_COLOR = re.compile(r"(\x1b\[[0-9;]*m)")
_PARTS = re.compile(r"\x1b\[[0-9;]*m| +|[^ \x1b]+|\x1b")


def short(text: str, width: int = MAX_WIDTH) -> str:
    """Return the text, printable and cut to a width."""
    text = printable(text[: width * 2])
    return text if len(text) <= width else text[: width - 1] + "…"


def print_document(text: str, *, err: bool = False) -> None:
    """Print a document whose format escapes its content, for example JSON or XML.

    Colors are printed only on a terminal and without NO_COLOR.
    """
    stream = sys.stderr if err else sys.stdout
    color = stream.isatty() and not os.environ.get("NO_COLOR")
    click.echo(text, err=err, color=color)


def print_line(line: str = "", *, err: bool = False) -> None:
    """Print a line for people. Escape all but its colors. Wrap it to the width of a terminal."""
    stream = sys.stderr if err else sys.stdout
    parts = _COLOR.split(line)
    line = "".join(printable(part) if n % 2 == 0 else part for n, part in enumerate(parts))
    print_document(wrap(line, width(stream)) if stream.isatty() else line, err=err)


def width(stream: TextIO) -> int:
    """Return the columns of a terminal. The variable COLUMNS has precedence, as in other programs."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _PLAIN_WIDTH
    except (OSError, ValueError):  # closed, or not a file
        return _PLAIN_WIDTH


def wrap(line: str, columns: int) -> str:
    """Wrap one line to lines of at most ``columns``, at spaces if possible. Indent the continuation.

    Colors take no columns, and wide characters take two.
    """
    hang = min(len(line) - len(line.lstrip(" ")) + _HANG, columns // 2)
    out: list[str] = []
    # columns: written, at the start of the current line, spaces that are not written yet
    used = start = gap = 0
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
    """Split a word into pieces of at most ``columns``."""
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
    """Return the columns that a text without escape sequences takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def count(number: int, word: str) -> str:
    """Return a number with its noun: ``1 run``, ``2 runs``."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
