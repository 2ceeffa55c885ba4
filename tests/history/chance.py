"""Random numbers that a seed repeats: one stream for each part, so that the parts are independent."""

from __future__ import annotations

import random


def seeded(seed: float) -> random.Random:
    """Return the stream of a seed."""
    return random.Random(seed)  # noqa: S311 - for a test, not a secret


def split(chance: random.Random) -> random.Random:
    """Return another stream that follows from this one."""
    return seeded(chance.random())
