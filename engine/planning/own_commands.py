"""The containers in which the engine runs a command. Their events start no runs during the command."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.model.event import Event

ID_LENGTH = 12
"""Digits of a container id that Falco reports."""
EARLY = 5.0
"""Seconds by which the clock of a node may be behind that of the engine."""
_MAX_CONTAINERS = 10_000


class OwnCommands:
    """Remembers in which containers commands of the engine run, and until when. In memory only."""

    def __init__(self) -> None:
        self._periods: dict[str, tuple[float, float]] = {}

    def add(self, container: str, since: float, until: float) -> None:
        """Remember a command, or move its end. container: its id. since, until: epoch seconds."""
        key = container[:ID_LENGTH]
        known = self._periods.pop(key, None)
        if len(self._periods) >= _MAX_CONTAINERS:
            self._periods.pop(next(iter(self._periods)))
        started = known[0] if known and known[1] >= since else since
        self._periods[key] = (started, until)

    def caused(self, event: Event) -> bool:
        """Whether an event is of a container in which a command of the engine ran at its time."""
        if not self._periods:
            return False
        container = event.fields.get("container.id")
        if not isinstance(container, str):
            return False
        period = self._periods.get(container[:ID_LENGTH])
        return period is not None and period[0] - EARLY <= event.time <= period[1]
