"""The output fields that Falco and its plugins define, and the JSON type that each has in an event.

The table is ``catalogue/fields.tsv``; its first line names the sources. JSON types follow ``rawval_to_json`` of
falcosecurity/libs: integers, ports, user ids and times are numbers, IP addresses and flags are text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from engine.language.findings import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELDS = Path(__file__).with_name("catalogue") / "fields.tsv"
_OPEN = frozenset((
    "static", "falco", "scap", "plugins",
    "docker", "seccomp", "seccompagent", "nomad", "dns", "dnscollector", "syslogsrv", "salesforce", "box",
    "journal", "journald", "gitlab", "keycloak", "awselb", "edera", "nginx", "coding_agent", "agent",
))  # fmt: skip
"""First words of fields that no table lists: those of the user, those of Falco's metrics events, and those of
the other plugins in the registry of falcosecurity/plugins."""

_SEPARATORS = {"no": "", "yes": "[_", "dotted": "[_."}
"""Falcosidekick's ``bracketreplacer`` can turn ``proc.aname[2]`` into ``proc.aname_2``."""


@dataclass(frozen=True, slots=True)
class Field:
    """An output field.

    kind: ``number``, ``boolean``, ``text`` or, where it depends on the event, ``any``. many: whether it is a
    list of these. separators: the characters that may begin an argument: none, ``[`` as in ``proc.aname[2]``,
    or also a dot as in ``evt.arg.flags``.
    """

    kind: str
    many: bool
    separators: str


@cache
def fields() -> Mapping[str, Field]:
    """All fields, by name without argument."""
    found = {}
    for line in FIELDS.read_text(encoding="utf-8").splitlines()[2:]:
        name, kind, argument, _ = line.split("\t")
        many = kind.endswith(" list")
        found[name] = Field(kind.removesuffix(" list"), many, _SEPARATORS[argument])
    return found


def field_named(name: str) -> Field | None:
    """The catalogue's entry for a field as an event spells it, with or without an argument; or None."""
    table = fields()
    if name in table:
        return table[name]
    for end, letter in enumerate(name):
        entry = table.get(name[:end]) if letter in "[_." else None
        if entry and letter in entry.separators:
            return entry
    return None


def type_of(name: str) -> str | None:
    """``number``, ``boolean`` or ``text``: the JSON type of the field, or of its elements; None if not known."""
    entry = field_named(name)
    return None if entry is None or entry.kind == "any" else entry.kind


def is_unknown(name: str) -> bool:
    """Whether no release of Falco and none of its own plugins prints a field of this name.

    Names without a dot are never Falco's; users add them, for example with Falcosidekick's ``customfields``.
    """
    head, dot, _ = name.partition(".")
    return bool(dot) and head not in _OPEN and field_named(name) is None


@cache
def _first_words() -> frozenset[str]:
    return frozenset(name.partition(".")[0] for name in fields())


def is_of_falco(name: str) -> bool:
    """Whether the first word of the name is one of Falco's or its plugins', such as ``proc``."""
    return name.partition(".")[0] in _first_words()


@lru_cache(256)  # a comparison with every field of the catalogue
def nearest_field(name: str) -> str | None:
    """The field that was probably meant, with the argument that was given, or None."""
    base, bracket, argument = name.partition("[")
    near = nearest(base, fields())
    return f"{near}{bracket}{argument}" if near and fields()[near].separators else near
