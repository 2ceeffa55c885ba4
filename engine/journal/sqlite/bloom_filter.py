"""Which ids are surely new: most are, and asking the disk for each costs more than all else of an accept."""

from __future__ import annotations

_BITS = 10
"""Per id: 1.2 % of the new ones look known with the four places of each (Bloom, 1970)."""
_LEAST = 1 << 20


def brief(id_: str) -> int:
    """The first half of an id of 32 hex digits: it is a digest, and thus as good as never another's."""
    return int(id_[:16], 16)


class BloomFilter:
    """A Bloom filter of brief ids, whose own bits are the places.

    room: ids for which it is made; with more of them it lets more through, and is never wrong about new ones.
    """

    def __init__(self, room: int) -> None:
        size = max(_LEAST, room * _BITS)
        self._mask = (1 << (size - 1).bit_length()) - 1
        self._bits = bytearray((self._mask >> 3) + 1)

    def add(self, *ids: int) -> None:
        """Remember them."""
        bits = self._bits
        for id_ in ids:
            for place in self._places(id_):
                bits[place >> 3] |= 1 << (place & 7)

    def new(self, id_: int) -> bool:
        """Whether the id was surely never added."""
        bits = self._bits
        for place in self._places(id_):  # noqa: SIM110 - a generator costs as much again
            if not bits[place >> 3] >> (place & 7) & 1:
                return True
        return False

    def _places(self, id_: int) -> tuple[int, int, int, int]:
        # two halves of a digest make any number of places (Kirsch and Mitzenmacher, 2006)
        mask, step = self._mask, id_ >> 32 | 1
        return id_ & mask, id_ + step & mask, id_ + 2 * step & mask, id_ + 3 * step & mask
