"""Read the head of an HTTP request, for servers that a test scripts line by line."""

from __future__ import annotations

from typing import BinaryIO


def read_head(stream: BinaryIO) -> list[bytes]:
    """Return the lines before the empty line, with their line ends. The list is empty at the end of the stream.

    A connection that ends in the middle of a head also ends the list: a loop that waits only for the empty line
    reads the end of the stream without a limit.
    """
    lines = []
    while (line := stream.readline()) not in {b"", b"\r\n"}:
        lines.append(line)
    return lines
