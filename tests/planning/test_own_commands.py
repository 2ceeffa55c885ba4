"""Events of containers in which the engine runs a command."""

from __future__ import annotations

import pytest
from engine.model.event import parse_event
from engine.planning.own_commands import OwnCommands

ID = "0a1b2c3d4e5f" + "0" * 52
NOON = 1_772_366_400.0  # 2026-03-01T12:00:00Z


def event(time="2026-03-01T12:00:05Z", container=ID[:12]):
    return parse_event({"rule": "R", "time": time, "output_fields": {"container.id": container}})


@pytest.mark.parametrize(
    ("time", "own"),
    [
        ("2026-03-01T11:59:54Z", False),
        ("2026-03-01T11:59:56Z", True),
        ("2026-03-01T12:00:10Z", True),
        ("2026-03-01T12:00:11Z", False),
    ],
)
def test_an_event_is_the_engines_own_while_its_command_runs(time, own):
    commands = OwnCommands()
    commands.add(ID, NOON, NOON + 10)
    assert commands.caused(event(time)) is own
    assert not commands.caused(event(time, container="ffffffffffff"))
    assert not commands.caused(event(time, container=None))


def test_the_end_of_a_command_moves_the_end_of_the_period_and_not_its_beginning():
    commands = OwnCommands()
    commands.add(ID, NOON, NOON + 3600)
    commands.add(ID, NOON + 4, NOON + 6)
    assert commands.caused(event("2026-03-01T12:00:00Z"))
    assert not commands.caused(event("2026-03-01T12:00:07Z"))


def test_the_number_of_containers_is_bounded():
    commands = OwnCommands()
    for number in range(10_005):
        commands.add(f"{number:012x}", NOON, NOON + 10)
    assert not commands.caused(event(container=f"{0:012x}"))
    assert commands.caused(event(container=f"{10_004:012x}"))
