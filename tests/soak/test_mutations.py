"""Mutated events of every form are accepted or refused. Nothing fails, and memory does not grow."""

from __future__ import annotations

import json
import random
import time
from collections import Counter

import pytest
from tests.soak.shapes import SHAPES, garbled, mutated
from tests.soak.watch import memory_of
from tests.support.engine import engine
from tests.support.intake import PLAYBOOK

BATCH = 20


@pytest.fixture
def running(tmp_path):
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run") as running:
        yield running


def bodies(chance, number):
    """Return (headers, body) of mutated events: one event, NDJSON or an array."""
    events = [
        (headers, mutated(chance, event)) for headers, event in chance.choices(EVERY, k=BATCH)
    ]
    if number % 4 == 0:
        return [(headers, garbled(chance, event)) for headers, event in events]
    if number % 4 == 1:
        return [({}, garbled(chance, b"[" + b",".join(event for _, event in events) + b"]"))]
    lines = [garbled(chance, event).replace(b"\n", b" ") for _, event in events]
    return [({}, b"\n".join(lines))]


EVERY = list(SHAPES.values())


@pytest.mark.parametrize("several", [False, True], ids=["one", "array"])
def test_every_form_is_an_event(running, several):
    for name, (headers, event) in SHAPES.items():
        status, _, said = running.post([event, event] if several else event, headers=headers)
        assert (status in (200, 202), said["accepted"]) == (True, 1 + several), name
        assert said["errors"] == [], name


def test_mutated_events_are_accepted_or_refused(running, size):
    many, seed = size.of(2_000, 200_000), time.time_ns() % 10**6
    chance = random.Random(seed)  # noqa: S311 - mutations, no secrets
    answers, half = Counter(), 0.0
    for number in range(many // BATCH):
        for headers, body in bodies(chance, number):
            status, _, said = running.post(body, headers=headers)
            assert status in (200, 202, 400), (seed, status, said, body[:2000])
            answers[str(status)] += 1
        if number == many // BATCH // 2:
            half = memory_of(running.pid)
    assert running.get("/livez")[0] == 200
    grown = memory_of(running.pid) - half
    assert not [line for line in running.log if "Traceback" in json.dumps(line)], seed
    if size.full:
        assert grown < 20, grown
    size.tell(events=many, answers=dict(answers), grown_mb=round(grown, 1), seed=seed)
