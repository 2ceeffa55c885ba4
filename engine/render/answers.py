"""The matrix of ``check --coverage``: Falco rules, playbooks, strongest effect."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from engine.render.text import count, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.falco.answers import Answer, Answers

_NAME = 100


def answers_lines(found: Answers) -> Iterator[str]:
    """The matrix as text."""
    names = [short(one.rule.name, _NAME) for one in found.answered]
    width = max(map(len, ["RULE", *names]))
    yield f"{'EFFECT':8} {'RULE':{width}} PLAYBOOKS"
    for name, one in zip(names, found.answered, strict=True):
        yield f"{one.effect:8} {name:{width}} {', '.join(map(_named, one.answers))}"
    yield ""
    listed = found.unanswered[: found.listed]
    rest = Counter(rule.where.file for rule in found.unanswered[found.listed :])
    yield f"{count(len(found.unanswered), 'rule')} that no playbook answers{':' * bool(listed)}"
    yield from (f"  {short(rule.name, _NAME)}" for rule in listed)
    yield from (f"  {number} of {file} (--rules FILE lists them)" for file, number in rest.items())


def _named(answer: Answer) -> str:
    return answer.playbook if answer.mode == "enforce" else f"{answer.playbook} ({answer.mode})"


def answers_json(found: Answers) -> dict[str, Any]:
    """``rules`` (those that some playbook answers) and ``unanswered`` (names)."""
    return {
        "rules": [
            {
                "rule": one.rule.name,
                "source": one.rule.source,
                "priority": one.rule.priority_name,
                "effect": one.effect,
                "playbooks": [
                    {"name": answer.playbook, "mode": answer.mode, "effect": answer.effect}
                    for answer in one.answers
                ],
            }
            for one in found.answered
        ],
        "unanswered": [rule.name for rule in found.unanswered],
    }
