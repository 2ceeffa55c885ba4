"""The sieve: what was added is never new, and of what was not nearly all is."""

from __future__ import annotations

import hashlib

from engine.journal.sqlite.bloom_filter import BloomFilter, short_id


def ids(count, of):
    return [short_id(hashlib.sha256(f"{of}{n}".encode()).hexdigest()[:32]) for n in range(count)]


def test_what_was_added_is_never_new_and_others_nearly_always_are():
    sieve = BloomFilter(2_000)
    known, others = ids(2_000, "known"), ids(2_000, "other")
    assert all(map(sieve.is_new, known))
    sieve.add(*known)
    assert not any(map(sieve.is_new, known))
    assert sum(map(sieve.is_new, others)) > 1_980


def test_one_that_is_too_full_is_still_never_wrong_about_what_was_added():
    sieve = BloomFilter(0)
    many = ids(150_000, "many")
    sieve.add(*many)
    assert not any(map(sieve.is_new, many[::100]))
