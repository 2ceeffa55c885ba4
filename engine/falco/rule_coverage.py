"""Which playbooks answer which Falco rules, and the strongest effect that they can have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.falco.catalogue import OWN_FILE, catalogue
from engine.planning.matcher import SelectorIndex

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.falco.rule import FalcoRule
    from engine.falco.rules_file import FalcoRules
    from engine.model.playbook import Match, Playbook

EFFECTS = ("disrupt", "mark", "observe", "notify", "none")
"""The effects of actions, the strongest first."""
_ASKING = "approval.wait"
_NO_ACTION = "no action, because "


class AnsweringPlaybook(msgspec.Struct, frozen=True):
    """A playbook whose ``match`` accepts events of a rule.

    Attributes:
        effect: the strongest effect of the steps that run in the playbook's mode; one of EFFECTS.
        asks: whether each step of that effect waits for the approval of a person.
        reason: why a disabled playbook does not act, or "".

    """

    name: str
    mode: str
    effect: str
    asks: bool = False
    reason: str = ""


class AnsweredRule(msgspec.Struct, frozen=True):
    """A rule in force, with the playbooks that answer it, sorted by name. There is at least one."""

    rule: FalcoRule
    playbooks: tuple[AnsweringPlaybook, ...]

    @property
    def effect(self) -> str:
        """The strongest effect of all playbooks."""
        return min((playbook.effect for playbook in self.playbooks), key=EFFECTS.index)

    @property
    def asks(self) -> bool:
        """Whether every playbook that has the strongest effect asks a person first."""
        return all(playbook.asks for playbook in self.playbooks if playbook.effect == self.effect)


class RuleCoverage(msgspec.Struct, frozen=True):
    """The rules in force, divided by whether a playbook answers them.

    answered: sorted by effect, the strongest first.
    unanswered: rules of the given rules files, or of Falco's catalogue if no files were given.
    listed: how many of the unanswered rules, from the first, to print by name. Of the catalogue these
        are the rules of the file that every Falco loads.
    """

    answered: tuple[AnsweredRule, ...]
    unanswered: tuple[FalcoRule, ...]
    listed: int


def rule_coverage(falco: FalcoRules, playbooks: Iterable[Playbook]) -> RuleCoverage:
    """Compare the rules in force with the ``match`` of each playbook.

    A disabled playbook is an answer if its description says why: "No action, because ...". Conditions are not
    evaluated, because they depend on the event. Hostnames are not compared,
    because rules do not have them.
    """
    index = SelectorIndex(one for one in playbooks if one.mode != "disabled" or _reason(one))
    answered, unanswered = [], []
    for rule in falco.rules.values():
        if rule.never_true or not rule.enabled:
            continue
        matching = [p for p in index.for_rule(rule.name) if _matches(p.match, rule)]
        answering = sorted(map(_answering, matching), key=lambda playbook: playbook.name)
        if answering:
            answered.append(AnsweredRule(rule, tuple(answering)))
        elif not falco.given or not _from_catalogue(rule):
            unanswered.append(rule)
    answered.sort(key=lambda one: (EFFECTS.index(one.effect), one.rule.name))
    unanswered.sort(key=lambda rule: (rule.where.file != OWN_FILE, rule.where.file, rule.name))
    listed = sum(falco.given or rule.where.file == OWN_FILE for rule in unanswered)
    return RuleCoverage(tuple(answered), tuple(unanswered), listed)


def _from_catalogue(rule: FalcoRule) -> bool:
    """Whether the rule was added from the catalogue because Falco loads its file anyway."""
    shipped = catalogue().get(rule.name)
    return shipped is not None and shipped.where == rule.where


def _matches(match: Match, rule: FalcoRule) -> bool:
    return (
        (match.sources is None or rule.source in match.sources)
        and (match.priority is None or rule.priority <= match.priority)
        and (match.tags_any is None or not rule.tags.isdisjoint(match.tags_any))
        and (match.tags_all is None or rule.tags >= match.tags_all)
        and (match.tags_none is None or rule.tags.isdisjoint(match.tags_none))
    )


def _answering(playbook: Playbook) -> AnsweringPlaybook:
    """Return the answer of a playbook. Steps of ``finally`` do not wait for the approval of an action."""
    asked, effects, unasked = False, {"none"}, {"none"}
    for step in playbook.steps:
        if step.action == _ASKING:
            asked = True
        elif playbook.mode == "enforce" or (playbook.mode == "notify" and step.effect == "notify"):
            effects.add(step.effect)
            if not asked or step.phase == "finally":
                unasked.add(step.effect)
    strongest = min(effects, key=EFFECTS.index)
    reason = _reason(playbook) if playbook.mode == "disabled" else ""
    asks = strongest not in unasked
    return AnsweringPlaybook(playbook.name, playbook.mode, strongest, asks, reason)


def _reason(playbook: Playbook) -> str:
    """Return the reason for which a playbook does not act, without "No action, because "; "" without one."""
    text = " ".join(playbook.description.split())
    return text[len(_NO_ACTION) :] if text.lower().startswith(_NO_ACTION) else ""
