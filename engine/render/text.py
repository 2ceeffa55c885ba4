"""Small things of text on a terminal: what an event says is data there, too."""

from __future__ import annotations

import os
import sys

import click

MAX_WIDTH = 200


def clean(text: str) -> str:
    """Text without what a terminal would obey (escape sequences, bidirectional marks, line ends)."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def short(text: str, width: int = MAX_WIDTH) -> str:
    """Cleaned text, cut to a width."""
    text = clean(text[: width * 2])
    return text if len(text) <= width else text[: width - 1] + "…"


def echo(text: str, *, err: bool = False) -> None:
    """Print a line; colours only on a terminal and without NO_COLOR."""
    stream = sys.stderr if err else sys.stdout
    color = stream.isatty() and not os.environ.get("NO_COLOR")
    click.echo(text, err=err, color=color)


def count(number: int, word: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
