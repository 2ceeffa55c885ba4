"""Playbooks beside Falco's rules: those that wait for what no rule ever sends.

All are warnings: users change outputs and rules where we cannot see it. With rules files given their word
counts; without, only what the catalogue knows by name is judged, for most users have rules of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.event import priority_of
from engine.falco.catalogue import catalogue
from engine.falco.reads import dead, keys_of_throttle, quoted, templates
from engine.language.report import mistyped, nearest
from engine.match import is_glob, named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from engine.falco.rule import FalcoRule
    from engine.falco.rules_file import FalcoRules
    from engine.language.report import Report
    from engine.language.source import Document, Path

_BY_FALCO_ITSELF = ("Falco internal: ", "Test rule")
"""Names that stand in no rules file: Falco's own messages, and Falcosidekick's test."""
_MATCH: Path = ("spec", "match")


class Join:
    """The rules, ready to be held against one document after the other."""

    def __init__(self, rules: FalcoRules) -> None:
        self._rules = rules.rules
        self._given = rules.given

    def inspect(self, document: Document, report: Report) -> None:
        """Warn of what a Playbook or Silence asks for and no rule gives. The document has the right shape."""
        spec = document.data["spec"]
        for path, what, hint in quoted(spec):
            _warn(report, path, "quoted-number", what, hint)
        match = spec["match"]
        found = self._found(match.get("rules"), report)
        if found is None:
            return
        left = _narrowed(match, found, report)
        if left:
            self._fields(spec, left, report)

    def _found(self, names: Sequence[str] | None, report: Report) -> list[FalcoRule] | None:
        """The rules that may send the events; None where others, which are not known, may do so, too."""
        if names is None:
            return list(self._rules.values()) if self._given else None
        found: dict[str, FalcoRule] = {}
        known = True
        for n, name in enumerate(names):
            of_name = self._named(name)
            if not of_name and self._is_wrong(name):
                _warn(report, (*_MATCH, "rules", n), "unknown-rule", *self._unknown(name))
            known = known and bool(of_name) and (self._given or not is_glob(name))
            found |= {rule.name: rule for rule in of_name}
        self._asleep(names, found.values(), report, known=known)
        return list(found.values()) if known else None

    def _asleep(
        self, names: Sequence[str], rules: Iterable[FalcoRule], report: Report, *, known: bool
    ) -> None:
        """Warn of rules that send nothing; of what Falco ships so, only where no other rule is left."""
        asleep = [rule for rule in rules if rule.never or not rule.enabled]
        awake = any(rule not in asleep for rule in rules) or not known
        for rule in asleep:
            if rule.name not in names or (awake and not self._given):
                continue
            if not rule.enabled:
                what = f"the rule is disabled ({rule.where.file})"
                hint = "rules: [{enable: {rule: NAME}}] in falco.yaml"
            else:
                what = f"the rule's condition can never hold ({rule.where})"
                hint = "override the macro in it that is never_true"
            path = (*_MATCH, "rules", names.index(rule.name))
            _warn(report, path, "disabled-rule", what, hint)

    def _named(self, name: str) -> list[FalcoRule]:
        if is_glob(name):
            matches = named([name])
            return [rule for rule in self._rules.values() if matches(rule.name)]
        return [self._rules[name]] if name in self._rules else []

    def _is_wrong(self, name: str) -> bool:
        if name.startswith(_BY_FALCO_ITSELF):
            return False
        # without rules files, whatever is not all but Falco's name is a rule of the user's own
        return self._given or (not is_glob(name) and mistyped(name, self._rules) is not None)

    def _unknown(self, name: str) -> tuple[str, str | None]:
        shipped = catalogue().get(name)
        if self._given and shipped:
            file = shipped.where.file
            return f"none of the rules files has `{name}`", f"load Falco's {file}, too: --rules"
        what = f"no rule is called `{name[:80]}`" if self._given else f"Falco has no `{name[:80]}`"
        return what, nearest(name, self._rules)

    def _fields(self, spec: dict[str, Any], rules: Sequence[FalcoRule], report: Report) -> None:
        """Warn of fields that none of the rules prints."""
        printed = frozenset[str]().union(*(rule.fields for rule in rules))
        who = f"`{rules[0].name}`" if len(rules) == 1 else f"any of {len(rules)} rules"
        hint = "print it in the rule's output, or by append_output in falco.yaml"
        reads = [*dead(spec, printed), *keys_of_throttle(spec, printed)]
        reads += templates(spec, printed) if self._given else ()
        for path, field, means in reads:
            near = mistyped(field, printed)
            what = f"`{field[:80]}` is not in the output of {who}: {means}"
            _warn(report, path, "unprinted-field", what, near or hint)


def _narrowed(match: Mapping[str, Any], rules: list[FalcoRule], report: Report) -> list[FalcoRule]:
    """The rules whose events pass ``match``; warns where a key leaves none, or shuts one out that is named."""
    names = match.get("rules") or []
    for key, passes, said in _keys(match):
        left = [rule for rule in rules if passes(rule)]
        if rules and not left:
            has = ", ".join(sorted({said(rule) for rule in rules})[:5])
            _warn(report, (*_MATCH, key), "never-matches", f"no rule here passes: they have {has}")
            return []
        for rule in rules:
            if rule.name in names and rule not in left:
                path = (*_MATCH, "rules", names.index(rule.name))
                what = f"`{key}` shuts this rule out: it has {said(rule)}"
                _warn(report, path, "never-matches", what)
        rules = left
    return rules


def _keys(
    match: Mapping[str, Any],
) -> Iterator[tuple[str, Callable[[FalcoRule], bool], Callable[[FalcoRule], str]]]:
    """The keys given that a rule can fail, each with its test and with what a rule has there."""
    if "sources" in match:
        sources = match["sources"]
        yield "sources", lambda rule: rule.source in sources, lambda r: f"source {r.source}"
    if "priority" in match:
        least = priority_of(match["priority"])
        if least is not None:
            yield "priority", lambda r: r.priority <= least, lambda r: f"priority {r.priority_name}"
    if "tags" in match:
        tags = match["tags"] if isinstance(match["tags"], dict) else {"any": match["tags"]}
        yield "tags", lambda r: _tagged(tags, r.tags), lambda r: f"tags {_listed(r.tags)}"


def _tagged(wanted: Mapping[str, Iterable[str]], tags: frozenset[str]) -> bool:
    return (
        ("any" not in wanted or not tags.isdisjoint(wanted["any"]))
        and tags.issuperset(wanted.get("all", ()))
        and tags.isdisjoint(wanted.get("none", ()))
    )


def _listed(tags: frozenset[str]) -> str:
    return f"[{', '.join(sorted(tags))}]"


def _warn(report: Report, path: Path, code: str, what: str, hint: str | None = None) -> None:
    report(path, code, what, hint, severity="warning")
