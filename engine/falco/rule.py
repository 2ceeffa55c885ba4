"""A Falco rule, and the output fields that its events contain."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.falco.fields import fields
from engine.model.errors import Location
from engine.model.event import PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_NAME = r"(?P<name>[A-Za-z]\w*+(?:\.[A-Za-z]\w*+)*+)(?P<argument>\[[^\[\]]*+\])?"
"""A word, or a field: a name with dots, and an optional argument in brackets without nested brackets."""
_REFERENCE = re.compile(rf"%[0-9]*+(?:(?P<call>[a-z]\w*+\()|{_NAME})", re.ASCII)
_QUOTED = r"\"(?:[^\"\\]|\\.)*+(?:\"|\\?\Z)|'(?:[^'\\]|\\.)*+(?:'|\\?\Z)"
_WITHIN = re.compile(rf"{_QUOTED}|[()]|{_NAME}", re.ASCII | re.DOTALL)
"""The tokens between the parentheses of a transformer, as in ``%concat(fd.rip, ") (", fd.rport)``."""
_LONGEST_FIELD = 64
"""Characters. All fields of the catalogue have shorter names."""

ALWAYS_FIELDS = frozenset({"evt.time", "evt.time.iso8601"})
"""The fields that Falco prints before every output. Its configuration selects one of the two."""
SUGGESTED_FIELDS = frozenset({
    "container.id", "container.name", "container.image.repository", "container.image.tag",
    "k8s.pod.name", "k8s.ns.name", "k8smeta.pod.name", "k8smeta.ns.name",
})  # fmt: skip
"""The fields that Falco adds to syscall events for the bundled container plugin (since 0.41) and k8smeta."""


@dataclass(frozen=True, slots=True)
class FalcoRule:
    """A Falco rule in force, reduced to the properties that a playbook can test.

    priority: 0 (Emergency) to 7 (Debug).
    output_fields: the fields in the rule's ``output``, with their arguments in brackets.
    never_true: whether the condition is false for every event.
    """

    name: str
    priority: int
    source: str = "syscall"
    tags: frozenset[str] = frozenset()
    output_fields: frozenset[str] = frozenset()
    enabled: bool = True
    never_true: bool = False
    where: Location = field(default=Location("", 1, 1), compare=False)

    @property
    def event_fields(self) -> frozenset[str]:
        """The output fields of the rule's events: those of its output, and those that Falco adds."""
        added = SUGGESTED_FIELDS if self.source == "syscall" else frozenset()
        return self.output_fields | ALWAYS_FIELDS | added

    @property
    def priority_name(self) -> str:
        """The priority as Falco writes it, for example ``Warning``."""
        return PRIORITIES[self.priority]


def fields_in_output(output: str) -> Iterator[str]:
    """Yield the fields that a rule's ``output`` prints.

    For a transformer such as ``%tolower(proc.name)``, yield the fields in its parentheses. The text is
    scanned once, so the work is linear in its length.
    """
    position = 0
    while found := _REFERENCE.search(output, position):
        position = found.end()
        if found["call"]:
            position = yield from _fields_of_arguments(output, position)
        elif "." in found["name"]:
            yield from _longest_known(found["name"], found["argument"])


def _fields_of_arguments(text: str, start: int) -> Generator[str, None, int]:
    """Yield the fields after an opening parenthesis; return the position after the closing one."""
    depth = 1
    for found in _WITHIN.finditer(text, start):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        if not depth:
            return found.end()
        if found["name"] and "." in found["name"]:
            yield from _longest_known(found["name"], found["argument"])
    return len(text)


def _longest_known(name: str, argument: str | None) -> Iterator[str]:
    """Yield the longest field that the name starts with, as Falco does: ``proc.name.x`` is ``proc.name``."""
    if name == "container.info":  # prints nothing since Falco 0.41
        return
    known = fields()
    longest = min(len(name), _LONGEST_FIELD)
    end = next((end for end in range(longest, 0, -1) if name[:end] in known), None)
    if end is None or end == len(name) or "." in known[name[:end]].separators:
        yield name + (argument or "")
    else:
        yield name[:end]
