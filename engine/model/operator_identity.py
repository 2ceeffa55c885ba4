"""The identity of an operator: when two names mean the same person."""

from __future__ import annotations

import unicodedata

KUBERNETES = "kubernetes:"
"""Prefix of the name of an operator who is known only by a Kubernetes user name."""


def canonical_operator(name: str) -> str:
    """Return the form in which names of operators are compared.

    Case, compatibility forms (NFKC) and invisible characters make no difference.
    """
    visible = (c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFKC", "".join(visible).casefold())


def may_be_same_person(one: str, other: str) -> bool:
    """Return whether two names may belong to one person.

    A Kubernetes user without a line in the operators file may be any operator of that file.
    """
    first, second = canonical_operator(one), canonical_operator(other)
    return first == second or first.startswith(KUBERNETES) != second.startswith(KUBERNETES)
