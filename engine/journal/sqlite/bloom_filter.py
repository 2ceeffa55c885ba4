"""A Bloom filter that recognizes new run ids without a database query.

Most run ids are new. A database query for each of them is the most expensive part of an accept.
"""

from __future__ import annotations

_BITS_PER_ITEM = 10
"""With four bits set per id, 1.2 % of the new ids look known (Bloom, 1970)."""
_MIN_BITS = 1 << 20


def short_id(run_id: str) -> int:
    """Return the first 64 bits of a run id of 32 hex digits.

    A run id is a digest. A collision of the first half is practically impossible.
    """
    return int(run_id[:16], 16)


class BloomFilter:
    """A Bloom filter of short ids.

    expected_items: the number of ids for which the filter is sized. With more ids, more new ids look known.
    ``is_new`` never returns True for an id that was added.
    """

    def __init__(self, expected_items: int) -> None:
        size = max(_MIN_BITS, expected_items * _BITS_PER_ITEM)
        self._mask = (1 << (size - 1).bit_length()) - 1
        self._bits = bytearray((self._mask >> 3) + 1)

    def add(self, *ids: int) -> None:
        """Add short ids."""
        bits = self._bits
        for id_ in ids:
            for index in self._bit_indexes(id_):
                bits[index >> 3] |= 1 << (index & 7)

    def is_new(self, id_: int) -> bool:
        """Return True if the short id was certainly not added."""
        bits = self._bits
        for index in self._bit_indexes(id_):  # noqa: SIM110 - a generator doubles the cost
            if not bits[index >> 3] >> (index & 7) & 1:
                return True
        return False

    def _bit_indexes(self, id_: int) -> tuple[int, int, int, int]:
        # two halves of a digest replace four hash functions (Kirsch and Mitzenmacher, 2006)
        mask, step = self._mask, id_ >> 32 | 1
        return id_ & mask, id_ + step & mask, id_ + 2 * step & mask, id_ + 3 * step & mask
