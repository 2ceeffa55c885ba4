"""Arrays as binary parameters, packed from encoded elements. psycopg would adapt every element in Python.

The elements can be encoded early, in another thread than that of the connection.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar

from psycopg import pq
from psycopg.adapt import Dumper

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from psycopg import Connection
    from psycopg.abc import Buffer

_LENGTH = struct.Struct(">i").pack
_INT4 = struct.Struct(">ii").pack
_INT8 = struct.Struct(">iq").pack
_FLOAT8 = struct.Struct(">id").pack
_HEADER = struct.Struct(">iiIii").pack
_EMPTY_HEADER = struct.Struct(">iiI").pack
NULL = _LENGTH(-1)
"""The element NULL."""
_UUID_BYTES = 16
_UUID_HEADER = _LENGTH(_UUID_BYTES)


def text(value: str | None) -> bytes:
    """Encode text. PostgreSQL cannot store NUL and halves of surrogate pairs, which an event can contain."""
    if value is None:
        return NULL
    raw = value.encode("utf-8", "replace")
    if b"\0" in raw:
        raw = raw.replace(b"\0", b"\xef\xbf\xbd")
    return _LENGTH(len(raw)) + raw


def uuid(hex_digits: str) -> bytes:
    """Encode a uuid of 32 hex digits, as the ids of runs are. Raises ValueError."""
    raw = bytes.fromhex(hex_digits)
    if len(raw) != _UUID_BYTES:
        raise ValueError("an id is not 32 hex digits")
    return _UUID_HEADER + raw


def raw_bytes(value: bytes | None) -> bytes:
    """Encode bytes."""
    return NULL if value is None else _LENGTH(len(value)) + value


def float8(value: float) -> bytes:
    """Encode a float."""
    return _FLOAT8(8, value)


def int4(value: int) -> bytes:
    """Encode an integer of 32 bits."""
    return _INT4(4, value)


def int8(value: int) -> bytes:
    """Encode an integer of 64 bits."""
    return _INT8(8, value)


class Array:
    """A parameter in the binary format of an array (``array_send`` of PostgreSQL). elements: encoded."""

    __slots__ = ("raw",)
    oid: ClassVar[int]
    element_oid: ClassVar[int]
    """Types, from ``pg_type.dat`` of PostgreSQL."""

    def __init__(self, elements: Sequence[bytes]) -> None:
        if elements:
            # the second number says whether there is a NULL, but the server looks for itself
            header = _HEADER(1, 0, self.element_oid, len(elements), 1)
        else:
            header = _EMPTY_HEADER(0, 0, self.element_oid)
        self.raw = header + b"".join(elements)


class TextArray(Array):
    """``text[]``."""

    __slots__ = ()
    oid, element_oid = 1009, 25


class BytesArray(Array):
    """``bytea[]``."""

    __slots__ = ()
    oid, element_oid = 1001, 17


class UuidArray(Array):
    """``uuid[]``."""

    __slots__ = ()
    oid, element_oid = 2951, 2950


class FloatArray(Array):
    """``float8[]``."""

    __slots__ = ()
    oid, element_oid = 1022, 701


class IntArray(Array):
    """``int4[]``."""

    __slots__ = ()
    oid, element_oid = 1007, 23


class LongArray(Array):
    """``int8[]``."""

    __slots__ = ()
    oid, element_oid = 1016, 20


class JsonList:
    """A parameter of the type ``json``: a list of encoded values."""

    __slots__ = ("raw",)
    oid = 114

    def __init__(self, values: Iterable[bytes]) -> None:
        self.raw = b"[" + b",".join(values) + b"]"


class _Dumper(Dumper):
    format = pq.Format.BINARY

    def dump(self, obj: Array | JsonList) -> Buffer | None:
        return obj.raw


def register(connection: Connection[object]) -> None:
    """Let a connection take arrays and JSON lists as parameters, with ``%b``."""
    for kind in (TextArray, BytesArray, UuidArray, FloatArray, IntArray, LongArray, JsonList):
        connection.adapters.register_dumper(
            kind, type(f"{kind.__name__}Dumper", (_Dumper,), {"oid": kind.oid})
        )
