"""Compare playbooks and silences with Falco's rules and fields, and warn of what no event ever has.

All findings are warnings, because users change rules and outputs in ways that are not visible here. With rules
files, these files are the authority. Without, only rules of the catalogue are judged, because most users have
rules of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.falco.catalogue import catalogue
from engine.falco.field_references import (
    all_fields,
    dead,
    keys_of_throttle,
    mistyped_operands,
    split_paths,
    templates,
)
from engine.falco.fields import is_unknown, nearest_field
from engine.language.findings import mistyped, nearest
from engine.model.event import parse_priority
from engine.model.name_patterns import is_glob, name_matcher

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from engine.falco.rule import FalcoRule
    from engine.falco.rules_file import FalcoRules
    from engine.language.findings import Report
    from engine.language.yaml_source import Document, Path

_BY_FALCO_ITSELF = ("Falco internal: ", "Test rule")
"""Names that stand in no rules file: Falco's own messages, and Falcosidekick's test."""
_SOURCES_WITHOUT_RULES = frozenset(("internal", "debug"))
_MOST_HINTS = 200
"""Closest words that are looked up for one command; each is compared with every name that is known."""
_MATCH: Path = ("spec", "match")


class CompatibilityCheck:
    """The rules, ready to be held against one document after the other."""

    def __init__(self, rules: FalcoRules) -> None:
        self._rules = rules.rules
        self._given = rules.given
        given = rules.rules.values() if rules.given else ()
        self._printed = frozenset[str]().union(*(rule.event_fields for rule in given))
        self._hints = _MOST_HINTS

    def inspect(self, document: Document, report: Report) -> None:
        """Warn of what a Playbook or Silence reads and no event has. The document has the right shape."""
        spec = document.data["spec"]
        self._unknown_fields(spec, report)
        for path, what, hint in mistyped_operands(spec):
            _warn(report, path, "quoted-number", what, hint)
        match = spec["match"]
        found = self._found(match.get("rules"), report)
        if found is None or not _SOURCES_WITHOUT_RULES.isdisjoint(match.get("sources") or ()):
            return
        if self._given:
            self._words(match, found, report)
        self._fields(spec, _narrowed(match, found, report) or found, report)

    def _unknown_fields(self, spec: dict[str, Any], report: Report) -> None:
        """Warn of fields that neither Falco's catalogue nor a given rule has."""
        for path, field in all_fields(spec):
            if is_unknown(field) and field not in self._printed:
                what = f"Falco has no field `{field[:80]}`"
                _warn(report, path, "unknown-field", what, self._hint(nearest_field, field))
        for path, key in split_paths(spec):
            what = f"the path looks for a mapping in `output_fields`, where `{key[:80]}` is one key"
            _warn(report, path, "unknown-field", what, f"$.output_fields['{key[:80]}']")

    def _hint(self, near: Callable[[str], str | None], word: str) -> str | None:
        """The closest valid word, or None; also None once the command has looked up many."""
        self._hints -= 1
        return near(word) if self._hints >= 0 else None

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
        self, names: Sequence[str], rules: Collection[FalcoRule], report: Report, *, known: bool
    ) -> None:
        """Warn of rules that send nothing; of what Falco ships so, only where no other rule is left."""
        asleep = [rule for rule in rules if rule.never_true or not rule.enabled]
        awake = len(asleep) < len(rules) or not known
        first = {name: n for n, name in reversed(list(enumerate(names)))}
        for rule in asleep:
            if rule.name not in first or (awake and not self._given):
                continue
            if not rule.enabled:
                what = f"the rule is disabled ({rule.where.file})"
                hint = "rules: [{enable: {rule: NAME}}] in falco.yaml"
            else:
                where = rule.where if self._given else rule.where.file
                what = f"the rule's condition can never hold ({where})"
                hint = "override the macro or list that switches it off"
            _warn(report, (*_MATCH, "rules", first[rule.name]), "disabled-rule", what, hint)

    def _named(self, name: str) -> list[FalcoRule]:
        if is_glob(name):
            matches = name_matcher([name])
            return [rule for rule in self._rules.values() if matches(rule.name)]
        return [self._rules[name]] if name in self._rules else []

    def _is_wrong(self, name: str) -> bool:
        if name.startswith(_BY_FALCO_ITSELF):
            return False
        # without rules files, whatever is not all but Falco's name is a rule of the user's own
        if self._given or is_glob(name):
            return self._given
        return self._hint(lambda word: mistyped(word, self._rules), name) is not None

    def _unknown(self, name: str) -> tuple[str, str | None]:
        shipped = catalogue().get(name)
        if self._given and shipped:
            file = shipped.where.file
            return f"none of the rules files has `{name}`", f"load Falco's {file}, too: --rules"
        what = f"no rule is called `{name[:80]}`" if self._given else f"Falco has no `{name[:80]}`"
        return what, self._hint(lambda word: nearest(word, self._rules), name)

    def _words(self, match: Mapping[str, Any], rules: Sequence[FalcoRule], report: Report) -> None:
        """Warn of a source or tag of a list that none of the rules has, although others of the list match.

        Tags are only compared with similar ones, because Falcosidekick's ``customtags`` adds tags.
        """
        sources = frozenset(rule.source for rule in rules)
        if not sources.isdisjoint(match.get("sources") or ()):
            for n, source in enumerate(match["sources"]):
                if source not in sources:
                    what = f"none of these rules has the source `{source[:80]}`"
                    near = self._hint(lambda word: nearest(word, sources), source)
                    _warn(report, (*_MATCH, "sources", n), "never-matches", what, near)
        given, tags = match.get("tags"), frozenset[str]().union(*(rule.tags for rule in rules))
        path = (*_MATCH, "tags") if isinstance(given, list) else (*_MATCH, "tags", "any")
        wanted = given if isinstance(given, list) else (given or {}).get("any") or ()
        if not tags.isdisjoint(wanted):
            for n, tag in enumerate(wanted):
                near = None if tag in tags else self._hint(lambda word: mistyped(word, tags), tag)
                if near:
                    what = f"none of these rules has the tag `{tag[:80]}`"
                    _warn(report, (*path, n), "never-matches", what, near)

    def _fields(self, spec: dict[str, Any], rules: Sequence[FalcoRule], report: Report) -> None:
        """Warn of fields that none of the rules prints."""
        if not rules:
            return
        printed = frozenset[str]().union(*(rule.event_fields for rule in rules))
        who = f"`{rules[0].name}`" if len(rules) == 1 else f"any of {len(rules)} rules"
        hint = "print it in the rule's output, or by append_output in falco.yaml"
        reads = [*dead(spec, printed), *keys_of_throttle(spec, printed)]
        reads += templates(spec, printed) if self._given else ()
        for path, field, means in reads:
            if is_unknown(field) and field not in self._printed:
                continue  # told already
            near = self._hint(lambda word: mistyped(word, printed), field)
            what = f"`{field[:80]}` is not in the output of {who}: {means}"
            _warn(report, path, "unprinted-field", what, near or hint)


def _narrowed(match: Mapping[str, Any], rules: list[FalcoRule], report: Report) -> list[FalcoRule]:
    """The rules whose events pass ``match``; warns where a key leaves none, or shuts one out that is named."""
    names = match.get("rules") or []
    first = {name: n for n, name in reversed(list(enumerate(names)))}
    for key, passes, said in _keys(match):
        left = [rule for rule in rules if passes(rule)]
        if rules and not left:
            has = ", ".join(sorted({said(rule) for rule in rules})[:5])
            _warn(report, (*_MATCH, key), "never-matches", f"no rule here passes: they have {has}")
            return []
        for rule in rules:
            if rule.name in first and not passes(rule):
                what = f"`{key}` shuts this rule out: it has {said(rule)}"
                _warn(report, (*_MATCH, "rules", first[rule.name]), "never-matches", what)
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
        least = parse_priority(match["priority"])
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
