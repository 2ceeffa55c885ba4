"""A Bloom filter never reports an added id as new."""

from __future__ import annotations

import hashlib

from engine.journal.sqlite.bloom_filter import BloomFilter, short_id


def ids(count, of):
    return [short_id(hashlib.sha256(f"{of}{n}".encode()).hexdigest()[:32]) for n in range(count)]


def test_added_ids_are_never_new_and_other_ids_nearly_always_are():
    bloom = BloomFilter(2_000)
    known, others = ids(2_000, "known"), ids(2_000, "other")
    assert all(map(bloom.is_new, known))
    bloom.add(*known)
    assert not any(map(bloom.is_new, known))
    assert sum(map(bloom.is_new, others)) > 1_980


def test_an_overfull_filter_never_reports_an_added_id_as_new():
    bloom = BloomFilter(0)
    many = ids(150_000, "many")
    bloom.add(*many)
    assert not any(map(bloom.is_new, many[::100]))
