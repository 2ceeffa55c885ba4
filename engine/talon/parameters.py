"""The parameters of a Talon action, read one by one; those that no one asked for are told at the end."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any

from engine.language.findings import nearest
from engine.talon.import_report import NotCarriedError

if TYPE_CHECKING:
    from engine.model.errors import Location
    from engine.talon.import_report import ImportReport
    from engine.talon.rules_file import Action

_BUCKETS = {"aws:s3": "s3", "minio:s3": "s3", "gcp:gcs": "gs"}


class Parameters:
    """What an action says. Every reader raises LostError where the value is of another type."""

    def __init__(self, action: Action, notes: ImportReport) -> None:
        self._action = action
        self._notes = notes
        self._asked: set[str] = set()

    def where(self, name: str) -> Location:
        """Where the parameter stands, or the action."""
        return self._action.places.get(name, self._action.where)

    def differs(self, name: str, what: str, hint: str | None = None) -> None:
        """Tell that the parameter means something else here."""
        self._notes.differs(self.where(name), what, hint)

    def get(self, name: str) -> Any:
        """The value as it is, or None."""
        self._asked.add(name)
        return self._action.parameters.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        """A text; required without a default."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value:
            raise NotCarriedError(f"`{name}` takes text")
        return value

    def number(self, name: str, default: int) -> int:
        """A whole number from 0."""
        value = self.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise NotCarriedError(f"`{name}` takes a whole number from 0")
        return value

    def flag(self, name: str) -> bool:
        """True or false (the default)."""
        value = self.get(name)
        if value in (None, "false"):
            return False
        if value is True or value == "true":
            return True
        if value is False:
            return False
        raise NotCarriedError(f"`{name}` takes true or false")

    def texts(self, name: str) -> list[str]:
        """A list of texts; empty where it is not there."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise NotCarriedError(f"`{name}` takes a list of texts")
        return list(dict.fromkeys(value))

    def networks(self, name: str) -> list[str]:
        """A list of networks, host bits cut as Go's ParseCIDR does."""
        found = []
        for one in self.texts(name):
            try:
                if "/" not in one:
                    raise ValueError
                found.append(str(ipaddress.ip_network(one, strict=False)))
            except ValueError:
                raise NotCarriedError(f"`{one[:80]}` in `{name}` is no network") from None
        return list(dict.fromkeys(found))

    def pairs(self, name: str) -> dict[str, str | None]:
        """Key -> text, or None where it is empty, which removes the key."""
        value = self.get(name)
        if not isinstance(value, dict) or not value:
            raise NotCarriedError(f"`{name}` takes a mapping with at least one key")
        return {key: _printed(name, one) for key, one in value.items()}

    def replicas(self, name: str) -> int | str | None:
        """A number, a percentage, or None where it is not there."""
        value = self.get(name)
        if value is None:
            return None
        found = re.fullmatch(r"([0-9]{1,9})(%?)", str(value))
        if not found or isinstance(value, bool):
            raise NotCarriedError(f"`{name}` takes a number or a percentage")
        return f"{int(found[1])}%" if found[2] else int(found[1])

    def artifact(self) -> str | None:
        """Where Talon's ``output`` puts bytes, as a URL."""
        output = self._action.output
        if output is None:
            return None
        given = output.get("parameters")
        given = given if isinstance(given, dict) else {}
        target = output.get("target")
        if target == "local:file":
            return f"file://{given.get('destination', '')}"
        if target not in _BUCKETS:
            raise NotCarriedError(f"`{target}` is no output of Talon's")
        return f"{_BUCKETS[target]}://{given.get('bucket', '')}/{str(given.get('prefix', '')).lstrip('/')}"

    def tell_rest(self) -> None:
        """Tell of the parameters that no one asked for: Talon ignores them."""
        for name in self._action.parameters.keys() - self._asked:
            actionner = self._action.actionner
            what = f"{actionner.text if actionner else 'it'} has no `{name}`, so Talon ignores it"
            self._notes.differs(self.where(name), what, nearest(_snake(name), self._asked))


def literal(text: str) -> str:
    """Text for ``with:``, where a percent sign would begin a template."""
    return text.replace("%", "%%")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", name).lower()


def _printed(name: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return literal(str(value))
    raise NotCarriedError(f"`{name}` takes texts as values")
