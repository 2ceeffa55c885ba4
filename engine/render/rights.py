"""The rights of the engine on the API server, for ``/status`` and ``tiercel status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.model.event import format_time
from engine.render.text import short

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.execution.rights_check import RightsReport

_UNCHECKED = "not checked yet"
_LISTED = 5
"""Rights that a line of text lists."""


def rights_json(report: RightsReport | None) -> dict[str, Any]:
    """Return the last report. Before the first one, the rights of the engine are not known."""
    if report is None:
        none: list[str] = []
        unknown = {"missing": none, "excess": none, "byNamespace": none, "error": _UNCHECKED}
        return {"checkedAt": None, "accounts": [{"account": None, **unknown}]}
    return {
        "checkedAt": format_time(int(report.at) * 1_000_000_000),
        "accounts": [
            {
                "account": one.account or None,
                "missing": list(one.missing),
                "excess": list(one.excess),
                "byNamespace": list(one.by_namespace),
                "error": one.error or None,
            }
            for one in report.accounts
        ],
    }


def rights_lines(rights: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line for each account: what is missing and in excess, or that the rights are as needed."""
    for one in rights["accounts"]:
        account = f"{one['account']}: " if one["account"] else ""
        if one["error"]:
            yield f"{account}not known: {short(one['error'], 160)}"
            continue
        parts = [f"{key}: {_list(one[key])}" for key in ("missing", "excess") if one[key]]
        if one["byNamespace"]:
            parts.append(
                f"only in the namespaces of Roles, not checked: {_list(one['byNamespace'])}"
            )
        yield account + ("; ".join(parts) or "as the playbooks need")


def _list(rights: list[str]) -> str:
    more = len(rights) - _LISTED
    return ", ".join(rights[:_LISTED]) + (f" and {more} more" if more > 0 else "")
