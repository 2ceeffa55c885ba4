"""What a Falco rule's events will say, as far as the rule's text tells."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.falco.types import fields
from engine.model.errors import Location
from engine.model.event import PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_NAME = r"(?P<name>[A-Za-z]\w*+(?:\.[A-Za-z]\w*+)*+)(?P<argument>\[[^\[\]]*+\])?"
"""A word, or a field: dots within, and an argument in brackets that has no bracket of its own."""
_REFERENCE = re.compile(rf"%[0-9]*+(?:(?P<call>[a-z]\w*+\()|{_NAME})", re.ASCII)
_QUOTED = r"\"(?:[^\"\\]|\\.)*+(?:\"|\\?\Z)|'(?:[^'\\]|\\.)*+(?:'|\\?\Z)"
_WITHIN = re.compile(rf"{_QUOTED}|[()]|{_NAME}", re.ASCII | re.DOTALL)
"""The tokens between the parentheses of a transformer, as in ``%concat(fd.rip, ") (", fd.rport)``."""
_LONGEST_FIELD = 64
"""No field of the catalogue has a longer name."""

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
    """The output fields that a rule's ``output`` prints; of ``%tolower(proc.name)`` the inner one.

    One pass: the work is linear in the text.
    """
    place = 0
    while found := _REFERENCE.search(output, place):
        place = found.end()
        if found["call"]:
            place = yield from _arguments(output, place)
        elif "." in found["name"]:
            yield from _printed(found["name"], found["argument"])


def _arguments(text: str, start: int) -> Generator[str, None, int]:
    """The fields between the parenthesis before ``start`` and the one that closes it, whose end is returned."""
    depth = 1
    for found in _WITHIN.finditer(text, start):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if not depth:
            return found.end()
        if found["name"] and "." in found["name"]:
            yield from _printed(found["name"], found["argument"])
    return len(text)


def _printed(name: str, argument: str | None) -> Iterator[str]:
    """The longest field that the text begins with, as Falco reads it: of ``proc.name.x`` it is ``proc.name``."""
    if name == "container.info":  # since Falco 0.41 it prints nothing
        return
    known = fields()
    longest = min(len(name), _LONGEST_FIELD)
    end = next((end for end in range(longest, 0, -1) if name[:end] in known), None)
    if end is None or end == len(name) or "." in known[name[:end]].separators:
        yield name + (argument or "")
    else:
        yield name[:end]
