"""What a Falco rule's events will say, as far as the rule's text tells."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import Location
from engine.event import PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIELD = re.compile(r"[A-Za-z]\w*(?:\.[A-Za-z]\w*)+(?:\[[^\]]*\])?")
"""A field's name, as Falco's formatter reads it: a dot within, an argument in brackets."""
_REFERENCE = re.compile(rf"%[0-9]*(?:({_FIELD.pattern})|([a-z_]+)\()")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")

ALWAYS = frozenset({"evt.time", "evt.time.iso8601"})
"""What Falco prints before every output; which of the two is a matter of its configuration."""
SUGGESTED = frozenset({
    "container.id", "container.name", "container.image.repository", "container.image.tag",
    "k8s.pod.name", "k8s.ns.name", "k8smeta.pod.name", "k8smeta.ns.name",
})  # fmt: skip
"""What the bundled container plugin (since 0.41) and k8smeta have Falco add to syscall events."""


@dataclass(frozen=True, slots=True)
class FalcoRule:
    """A rule, as far as playbooks can tell it from others.

    priority: 0 is Emergency, 7 Debug. printed: output fields of its own output, brackets included.
    never: whether its condition can hold for no event.
    """

    name: str
    priority: int
    source: str = "syscall"
    tags: frozenset[str] = frozenset()
    printed: frozenset[str] = frozenset()
    enabled: bool = True
    never: bool = False
    where: Location = field(default=Location("", 1, 1), compare=False)

    @property
    def fields(self) -> frozenset[str]:
        """The output fields that its events have: those printed, and those that Falco adds."""
        added = SUGGESTED if self.source == "syscall" else frozenset()
        return self.printed | ALWAYS | added

    @property
    def priority_name(self) -> str:
        """As Falco writes it."""
        return PRIORITIES[self.priority]


def fields_of(output: str) -> Iterator[str]:
    """The output fields that a rule's ``output`` prints; of ``%tolower(proc.name)`` the inner one."""
    for found in _REFERENCE.finditer(output):
        if found[1]:
            # of %container.info nothing is left since Falco 0.41
            yield from () if found[1] == "container.info" else (found[1],)
            continue
        inner = _QUOTED.sub("", output[found.end() : _close(output, found.end())])
        yield from _FIELD.findall(inner)


def _close(text: str, start: int) -> int:
    """Where the parenthesis that was opened before ``start`` is closed."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place
    return len(text)
