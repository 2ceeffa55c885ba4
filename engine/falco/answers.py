"""Which playbooks answer which of Falco's rules, and with what effect at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.falco.catalogue import OWN_FILE, catalogue
from engine.planning.matcher import Index

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.falco.rule import FalcoRule
    from engine.falco.rules_file import FalcoRules
    from engine.model.playbook import Match, Playbook

EFFECTS = ("disrupt", "mark", "notify", "observe", "none")
"""The effects of actions, the strongest first."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A playbook that the rule's events may match. effect: the strongest of its steps that act in its mode."""

    playbook: str
    mode: str
    effect: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A rule that is in force, with the playbooks that answer it, in order of name."""

    rule: FalcoRule
    answers: tuple[Answer, ...]

    @property
    def effect(self) -> str:
        """The strongest effect of all answers."""
        return min((answer.effect for answer in self.answers), key=EFFECTS.index)


@dataclass(frozen=True, slots=True)
class Answers:
    """answered: the strongest effect first. unanswered: rules of the rules files, or of Falco's catalogue.

    listed: how many of the unanswered rules, from the first, a person wants by name; of the catalogue only those
    of the file that every Falco loads.
    """

    answered: tuple[Answered, ...]
    unanswered: tuple[FalcoRule, ...]
    listed: int


def answers(falco: FalcoRules, playbooks: Iterable[Playbook]) -> Answers:
    """Compare the rules in force with the ``match`` of the playbooks; conditions depend on the event.

    Hostnames are not compared, because no rule has them. Disabled playbooks answer nothing.
    """
    index = Index(playbook for playbook in playbooks if playbook.mode != "disabled")
    answered, unanswered = [], []
    for rule in falco.rules.values():
        if rule.never or not rule.enabled:
            continue
        found = [p for p in index.naming(rule.name) if _is_wanted(rule, p.match)]
        given = sorted((_answer(p) for p in found), key=lambda answer: answer.playbook)
        if given:
            answered.append(Answered(rule, tuple(given)))
        elif not falco.given or not _is_assumed(rule):
            unanswered.append(rule)
    answered.sort(key=lambda one: (EFFECTS.index(one.effect), one.rule.name))
    unanswered.sort(key=lambda rule: (rule.where.file != OWN_FILE, rule.where.file, rule.name))
    listed = sum(falco.given or rule.where.file == OWN_FILE for rule in unanswered)
    return Answers(tuple(answered), tuple(unanswered), listed)


def _is_assumed(rule: FalcoRule) -> bool:
    """Whether the rule comes from the catalogue, because Falco loads its file besides those given."""
    own = catalogue().get(rule.name)
    return own is not None and own.where == rule.where


def _is_wanted(rule: FalcoRule, match: Match) -> bool:
    return (
        (match.sources is None or rule.source in match.sources)
        and (match.priority is None or rule.priority <= match.priority)
        and (match.tags_any is None or not rule.tags.isdisjoint(match.tags_any))
        and (match.tags_all is None or rule.tags >= match.tags_all)
        and (match.tags_none is None or rule.tags.isdisjoint(match.tags_none))
    )


def _answer(playbook: Playbook) -> Answer:
    effects = {step.effect for step in playbook.steps} if playbook.mode != "dryRun" else set()
    if playbook.mode == "notify":
        effects &= {"notify"}
    return Answer(playbook.name, playbook.mode, min(effects or {"none"}, key=EFFECTS.index))
