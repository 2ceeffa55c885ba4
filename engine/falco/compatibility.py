"""Check playbooks and silences against Falco's rules and fields, and warn of parts that no event can match.

All findings are warnings, because users change rules and outputs in ways that are not visible here. If rules
files are given, they are the authority. Without rules files only rules of the catalogue are checked, because
most users have rules of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.falco.catalogue import catalogue
from engine.falco.field_references import (
    conditions_never_true,
    field_references,
    missing_template_fields,
    missing_throttle_keys,
    mistyped_operands,
    split_field_names,
)
from engine.falco.fields import is_unknown, nearest_field
from engine.language.findings import mistyped, nearest
from engine.model.event import parse_priority
from engine.model.name_patterns import is_glob, name_matcher

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from engine.falco.rule import FalcoRule
    from engine.falco.rules_file import FalcoRules
    from engine.language.findings import Findings
    from engine.language.yaml_source import Document, Path

_NAMES_WITHOUT_RULE = ("Falco internal: ", "Test rule")
"""Prefixes of event names that are not in a rules file: Falco's own messages, and Falcosidekick's test."""
_SOURCES_WITHOUT_RULES = frozenset(("internal", "debug"))
_MAX_HINTS = 200
"""Searches for the most similar word per command. Each search compares the word with every known name."""
_MATCH: Path = ("spec", "match")


class CompatibilityCheck:
    """The rules in force, prepared for the check of many documents."""

    def __init__(self, rules: FalcoRules) -> None:
        self._rules = rules.rules
        self._given = rules.given
        given = rules.rules.values() if rules.given else ()
        self._given_fields = frozenset[str]().union(*(rule.event_fields for rule in given))
        self._hints_left = _MAX_HINTS

    def inspect(self, document: Document, findings: Findings) -> None:
        """Warn of the parts of a Playbook or Silence that no event can match.

        The document must have passed the validation of its structure.
        """
        spec = document.data["spec"]
        self._check_field_names(spec, findings)
        for path, what, hint in mistyped_operands(spec):
            _warn(findings, path, "quoted-number", what, hint)
        match = spec["match"]
        rules = self._rules_of_match(
            match.get("rules"), findings, disabled=spec.get("mode") == "disabled"
        )
        if rules is None or not _SOURCES_WITHOUT_RULES.isdisjoint(match.get("sources") or ()):
            return
        if self._given:
            self._check_sources_and_tags(match, rules, findings)
        self._check_printed_fields(spec, _passing(match, rules, findings) or rules, findings)

    def _check_field_names(self, spec: dict[str, Any], findings: Findings) -> None:
        """Warn of fields that are neither in Falco's catalogue nor in a given rule."""
        for path, field in field_references(spec):
            if is_unknown(field) and field not in self._given_fields:
                what = f"Falco does not have a field `{field[:80]}`"
                _warn(findings, path, "unknown-field", what, self._hint(nearest_field, field))
        for path, key in split_field_names(spec):
            what = f"`{key[:80]}` is one key of `output_fields`, not a path of several keys"
            _warn(findings, path, "unknown-field", what, f"$.output_fields['{key[:80]}']")

    def _hint(self, search: Callable[[str], str | None], word: str) -> str | None:
        """Return the most similar valid word, or None; always None after _MAX_HINTS searches."""
        self._hints_left -= 1
        return search(word) if self._hints_left >= 0 else None

    def _rules_of_match(
        self, names: Sequence[str] | None, findings: Findings, *, disabled: bool
    ) -> list[FalcoRule] | None:
        """Return the rules that can send matching events, or None if unknown rules can send them too.

        disabled: whether the playbook is. Then it does not matter that a rule is.
        """
        if names is None:
            return list(self._rules.values()) if self._given else None
        found: dict[str, FalcoRule] = {}
        complete = True
        for n, name in enumerate(names):
            named = self._named(name)
            if not named and self._is_mistake(name):
                _warn(findings, (*_MATCH, "rules", n), "unknown-rule", *self._unknown_rule(name))
            complete = complete and bool(named) and (self._given or not is_glob(name))
            found |= {rule.name: rule for rule in named}
        if not disabled:
            self._check_disabled(names, found.values(), findings, complete=complete)
        return list(found.values()) if complete else None

    def _check_disabled(
        self,
        names: Sequence[str],
        rules: Collection[FalcoRule],
        findings: Findings,
        *,
        complete: bool,
    ) -> None:
        """Warn of rules that never send events.

        Rules of the catalogue that are shipped disabled are reported only if no other rule is left.
        """
        silent = [rule for rule in rules if rule.never_true or not rule.enabled]
        others = len(silent) < len(rules) or not complete
        first = {name: n for n, name in reversed(list(enumerate(names)))}
        for rule in silent:
            if rule.name not in first or (others and not self._given):
                continue
            if not rule.enabled:
                what = f"the rule is disabled ({rule.where.file})"
                hint = "rules: [{enable: {rule: NAME}}] in falco.yaml"
            else:
                where = rule.where if self._given else rule.where.file
                what = f"the condition of the rule is never true ({where})"
                hint = "override the macro or list that disables it"
            _warn(findings, (*_MATCH, "rules", first[rule.name]), "disabled-rule", what, hint)

    def _named(self, name: str) -> list[FalcoRule]:
        if is_glob(name):
            matches = name_matcher([name])
            return [rule for rule in self._rules.values() if matches(rule.name)]
        return [self._rules[name]] if name in self._rules else []

    def _is_mistake(self, name: str) -> bool:
        if name.startswith(_NAMES_WITHOUT_RULE):
            return False
        # without rules files, a name that is not similar to a shipped rule is a rule of the user
        if self._given or is_glob(name):
            return self._given
        return self._hint(lambda word: mistyped(word, self._rules), name) is not None

    def _unknown_rule(self, name: str) -> tuple[str, str | None]:
        """Return the message and the hint for a rule name that is not known."""
        shipped = catalogue().get(name)
        if self._given and shipped:
            file = shipped.where.file
            what = f"the rules files do not contain the rule `{name}`"
            return what, f"add Falco's {file}: --rules {file}"
        holder = "the rules files do" if self._given else "Falco does"
        what = f"{holder} not have a rule `{name[:80]}`"
        return what, self._hint(lambda word: nearest(word, self._rules), name)

    def _check_sources_and_tags(
        self, match: Mapping[str, Any], rules: Sequence[FalcoRule], findings: Findings
    ) -> None:
        """Warn of a source or tag in a list that none of the rules has, if another item of the list matches.

        A tag is reported only if it is similar to a known one, because Falcosidekick's ``customtags`` adds
        tags.
        """
        sources = frozenset(rule.source for rule in rules)
        if not sources.isdisjoint(match.get("sources") or ()):
            for n, source in enumerate(match["sources"]):
                if source not in sources:
                    what = f"none of these rules has the source `{source[:80]}`"
                    near = self._hint(lambda word: nearest(word, sources), source)
                    _warn(findings, (*_MATCH, "sources", n), "never-matches", what, near)
        given, tags = match.get("tags"), frozenset[str]().union(*(rule.tags for rule in rules))
        path = (*_MATCH, "tags") if isinstance(given, list) else (*_MATCH, "tags", "any")
        wanted = given if isinstance(given, list) else (given or {}).get("any") or ()
        if not tags.isdisjoint(wanted):
            for n, tag in enumerate(wanted):
                near = None if tag in tags else self._hint(lambda word: mistyped(word, tags), tag)
                if near:
                    what = f"none of these rules has the tag `{tag[:80]}`"
                    _warn(findings, (*path, n), "never-matches", what, near)

    def _check_printed_fields(
        self, spec: dict[str, Any], rules: Sequence[FalcoRule], findings: Findings
    ) -> None:
        """Warn of fields that none of the rules prints."""
        if not rules:
            return
        fields = frozenset[str]().union(*(rule.event_fields for rule in rules))
        subject = f"`{rules[0].name}`" if len(rules) == 1 else f"any of {len(rules)} rules"
        hint = "add it to the rule's output, or to append_output in falco.yaml"
        missing = [*conditions_never_true(spec, fields), *missing_throttle_keys(spec, fields)]
        missing += missing_template_fields(spec, fields) if self._given else ()
        for path, field, effect in missing:
            if is_unknown(field) and field not in self._given_fields:
                continue  # already reported as unknown-field
            near = self._hint(lambda word: mistyped(word, fields), field)
            what = f"`{field[:80]}` is not in the output of {subject}: {effect}"
            _warn(findings, path, "unprinted-field", what, near or hint)


def _passing(
    match: Mapping[str, Any], rules: list[FalcoRule], findings: Findings
) -> list[FalcoRule]:
    """Return the rules whose events pass ``match``.

    Warn if a key excludes all rules, or a rule that ``match.rules`` names.
    """
    names = match.get("rules") or []
    first = {name: n for n, name in reversed(list(enumerate(names)))}
    for key, passes, described in _keys(match):
        left = [rule for rule in rules if passes(rule)]
        if rules and not left:
            has = ", ".join(sorted({described(rule) for rule in rules})[:5])
            what = f"`{key}` excludes all of these rules: they have {has}"
            _warn(findings, (*_MATCH, key), "never-matches", what)
            return []
        for rule in rules:
            if rule.name in first and not passes(rule):
                what = f"`{key}` excludes this rule: it has {described(rule)}"
                _warn(findings, (*_MATCH, "rules", first[rule.name]), "never-matches", what)
        rules = left
    return rules


def _keys(
    match: Mapping[str, Any],
) -> Iterator[tuple[str, Callable[[FalcoRule], bool], Callable[[FalcoRule], str]]]:
    """Yield the keys of ``match`` that a rule can fail, each with its test and the rule's own value as text."""
    if "sources" in match:
        sources = match["sources"]
        yield "sources", lambda rule: rule.source in sources, lambda r: f"source {r.source}"
    if "priority" in match:
        least = parse_priority(match["priority"])
        if least is not None:
            yield "priority", lambda r: r.priority <= least, lambda r: f"priority {r.priority_name}"
    if "tags" in match:
        tags = match["tags"] if isinstance(match["tags"], dict) else {"any": match["tags"]}
        yield "tags", lambda r: _has_tags(tags, r.tags), lambda r: f"tags {_listed(r.tags)}"


def _has_tags(wanted: Mapping[str, Iterable[str]], tags: frozenset[str]) -> bool:
    return (
        ("any" not in wanted or not tags.isdisjoint(wanted["any"]))
        and tags.issuperset(wanted.get("all", ()))
        and tags.isdisjoint(wanted.get("none", ()))
    )


def _listed(tags: frozenset[str]) -> str:
    return f"[{', '.join(sorted(tags))}]"


def _warn(findings: Findings, path: Path, code: str, what: str, hint: str | None = None) -> None:
    findings.add(path, code, what, hint, severity="warning")
