"""Arrays as binary parameters, each packed at once. psycopg would adapt every element of a list in Python."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar

from psycopg import pq
from psycopg.adapt import Dumper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import Connection
    from psycopg.abc import Buffer

_TEXT, _BYTEA, _FLOAT8, _INT4, _UUID = 25, 17, 701, 23, 2950
"""Types of elements, from ``pg_type.dat`` of PostgreSQL."""
_LENGTH = struct.Struct(">i").pack
_NULL = _LENGTH(-1)
_HEADER = struct.Struct(">iiIii").pack


class Array:
    """A parameter that is packed in the binary format of an array (``array_send`` of PostgreSQL)."""

    __slots__ = ("raw",)
    oid: ClassVar[int]

    raw: bytes


class TextArray(Array):
    """``text[]``. PostgreSQL cannot store NUL and halves of surrogate pairs, which an event can contain."""

    __slots__ = ()
    oid = 1009

    def __init__(self, texts: Sequence[str | None]) -> None:
        found = [None if text is None else text.encode("utf-8", "replace") for text in texts]
        if any(b"\0" in text for text in found if text):
            found = [text and text.replace(b"\0", b"\xef\xbf\xbd") for text in found]
        self.raw = _pack(_TEXT, found)


class BytesArray(Array):
    """``bytea[]``."""

    __slots__ = ()
    oid = 1001

    def __init__(self, values: Sequence[bytes | None]) -> None:
        self.raw = _pack(_BYTEA, values)


class UuidArray(Array):
    """``uuid[]``, from values of 16 bytes."""

    __slots__ = ()
    oid = 2951

    def __init__(self, values: Sequence[bytes]) -> None:
        self.raw = _pack(_UUID, values)


class FloatArray(Array):
    """``float8[]``."""

    __slots__ = ()
    oid = 1022

    def __init__(self, values: Sequence[float]) -> None:
        self.raw = _header(_FLOAT8, len(values)) + _fixed("id", 8, values)


class IntArray(Array):
    """``int4[]``."""

    __slots__ = ()
    oid = 1007

    def __init__(self, values: Sequence[int]) -> None:
        self.raw = _header(_INT4, len(values)) + _fixed("ii", 4, values)


def _header(element: int, length: int, *, nulls: bool = False) -> bytes:
    """Return the header of an array of one dimension, which starts at 1."""
    if not length:
        return struct.pack(">iiI", 0, 0, element)
    return _HEADER(1, int(nulls), element, length, 1)


def _fixed(pair: str, size: int, values: Sequence[float]) -> bytes:
    """Pack values of one size, each after that size."""
    flat = [size] * (2 * len(values))
    flat[1::2] = values  # type: ignore[assignment]
    return struct.pack(f">{pair * len(values)}", *flat)


def _pack(element: int, values: Sequence[bytes | None]) -> bytes:
    parts = [_header(element, len(values), nulls=None in values)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts += (_LENGTH(len(value)), value)
    return b"".join(parts)


class _ArrayDumper(Dumper):
    format = pq.Format.BINARY

    def dump(self, obj: Array) -> Buffer | None:
        return obj.raw


def register(connection: Connection[object]) -> None:
    """Let a connection take arrays as parameters, with ``%b``."""
    for kind in (TextArray, BytesArray, UuidArray, FloatArray, IntArray):
        connection.adapters.register_dumper(
            kind, type(f"{kind.__name__}Dumper", (_ArrayDumper,), {"oid": kind.oid})
        )
