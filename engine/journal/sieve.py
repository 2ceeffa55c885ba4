"""Which ids are surely new: most are, and asking the disk for each costs more than all else of an accept."""

from __future__ import annotations

_BITS = 10
"""Per id: 1 % of the new ones look known with 7 places each (Bloom, 1970)."""
_PLACES = 7
_LEAST = 1 << 20


class Sieve:
    """A Bloom filter of run ids, which are digests, so that their own digits are the places.

    room: ids for which it is made; with more of them it lets more through, and is never wrong about new ones.
    """

    def __init__(self, room: int) -> None:
        size = max(_LEAST, room * _BITS)
        self._mask = (1 << (size - 1).bit_length()) - 1
        self._bits = bytearray((self._mask >> 3) + 1)

    def add(self, *ids: str) -> None:
        """Remember ids of 32 hex digits."""
        for id_ in ids:
            for place in self._places(id_):
                self._bits[place >> 3] |= 1 << (place & 7)

    def new(self, id_: str) -> bool:
        """Whether the id was surely never added."""
        bits = self._bits
        return any(not bits[place >> 3] >> (place & 7) & 1 for place in self._places(id_))

    def _places(self, id_: str) -> list[int]:
        # two halves of the digest make any number of places (Kirsch and Mitzenmacher, 2006)
        whole = int(id_, 16)
        first, step = whole & self._mask, whole >> 64 | 1
        return [first + n * step & self._mask for n in range(_PLACES)]
