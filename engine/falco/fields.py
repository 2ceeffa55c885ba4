"""The output fields that Falco and its plugins define, and their JSON types.

The table is ``catalogue/fields.tsv``. Its first line names the sources. The JSON types follow
``rawval_to_json`` of falcosecurity/libs: integers, ports, user ids and times are numbers; IP addresses and
flags are text.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.language.findings import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

FIELDS = Path(__file__).with_name("catalogue") / "fields.tsv"
_OPEN_PREFIXES = frozenset((
    "static", "falco", "scap", "plugins",
    "docker", "seccomp", "seccompagent", "nomad", "dns", "dnscollector", "syslogsrv", "salesforce", "box",
    "journal", "journald", "gitlab", "keycloak", "awselb", "edera", "nginx", "coding_agent", "agent",
))  # fmt: skip
"""First words of fields that the table does not list: fields of users, of Falco's metrics events, and of the
other plugins in the registry of falcosecurity/plugins."""

_SEPARATORS = {"no": "", "yes": "[_", "dotted": "[_."}
"""Falcosidekick's ``bracketreplacer`` can change ``proc.aname[2]`` into ``proc.aname_2``."""


class Field(msgspec.Struct, frozen=True):
    """An output field.

    kind: ``number``, ``boolean``, ``text``, or ``any`` if the type depends on the event.
    many: whether the value is a list of these.
    separators: the characters that can start an argument: none, ``[`` and ``_`` as in ``proc.aname[2]``,
        or also a dot as in ``evt.arg.flags``.
    """

    kind: str
    many: bool
    separators: str


@cache
def fields() -> Mapping[str, Field]:
    """Return all fields by name, without argument."""
    found = {}
    for line in FIELDS.read_text(encoding="utf-8").splitlines()[2:]:
        name, kind, argument, _ = line.split("\t")
        many = kind.endswith(" list")
        found[name] = Field(kind.removesuffix(" list"), many, _SEPARATORS[argument])
    return found


@cache
def _longest_name() -> int:
    return max(map(len, fields()))


def field_named(name: str) -> Field | None:
    """Return the entry of a field as an event spells it, with or without an argument; None if unknown."""
    table = fields()
    if name in table:
        return table[name]
    for end, letter in enumerate(name[: _longest_name() + 1]):
        entry = table.get(name[:end]) if letter in "[_." else None
        if entry and letter in entry.separators:
            return entry
    return None


def type_of(name: str) -> str | None:
    """Return ``number``, ``boolean`` or ``text``: the JSON type of the field, or of its elements.

    None if the field is unknown or its type depends on the event.
    """
    entry = field_named(name)
    return None if entry is None or entry.kind == "any" else entry.kind


def is_unknown(name: str) -> bool:
    """Return whether Falco and its own plugins do not have a field of this name in any release.

    A name without a dot is not unknown: Falco has no such names, but users add them, for example with
    Falcosidekick's ``customfields``.
    """
    prefix, dot, _ = name.partition(".")
    return bool(dot) and prefix not in _OPEN_PREFIXES and field_named(name) is None


@cache
def _prefixes() -> frozenset[str]:
    return frozenset(name.partition(".")[0] for name in fields())


def has_falco_prefix(name: str) -> bool:
    """Return whether the first word of the name is a prefix of Falco or its plugins, such as ``proc``."""
    return name.partition(".")[0] in _prefixes()


@lru_cache(256)  # each call compares the name with every field of the catalogue
def nearest_field(name: str) -> str | None:
    """Return the known field with the most similar name, with the given argument; None if none is similar."""
    base, bracket, argument = name.partition("[")
    near = nearest(base, fields())
    return f"{near}{bracket}{argument}" if near and fields()[near].separators else near
