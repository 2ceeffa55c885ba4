"""The output of ``check --coverage``: Falco rules, the playbooks that answer them, and the strongest effect."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from engine.render.text import count, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.falco.rule_coverage import AnsweringPlaybook, RuleCoverage

_NAME_WIDTH = 100


def coverage_lines(found: RuleCoverage) -> Iterator[str]:
    """Yield the matrix as text, the reasons not to act, and the rules that no playbook answers."""
    names = [short(one.rule.name, _NAME_WIDTH) for one in found.answered]
    width = max(map(len, ["RULE", *names]))
    yield f"{'EFFECT':14} {'RULE':{width}} PLAYBOOKS"
    for name, one in zip(names, found.answered, strict=True):
        effect = one.effect + " (asks)" * one.asks
        yield f"{effect:14} {name:{width}} {', '.join(map(_playbook_text, one.playbooks))}"
    yield ""
    reasons = {p.name: p.reason for one in found.answered for p in one.playbooks if p.reason}
    if reasons:
        yield "no action, because"
        yield from (f"  {name}: {short(reason)}" for name, reason in sorted(reasons.items()))
        yield ""
    listed = found.unanswered[: found.listed]
    rest = Counter(rule.where.file for rule in found.unanswered[found.listed :])
    yield f"{count(len(found.unanswered), 'rule')} that no playbook answers{':' * bool(listed)}"
    yield from (f"  {short(rule.name, _NAME_WIDTH)}" for rule in listed)
    yield from (f"  {number} of {file} (--rules FILE lists them)" for file, number in rest.items())


def _playbook_text(playbook: AnsweringPlaybook) -> str:
    notes = [playbook.mode] if playbook.mode not in ("enforce", "disabled") else []
    notes += ["no action"] if playbook.reason else []
    notes += ["asks"] if playbook.asks else []
    return f"{playbook.name} ({', '.join(notes)})" if notes else playbook.name


def coverage_json(found: RuleCoverage) -> dict[str, Any]:
    """Return ``rules`` (with the playbooks that answer them) and ``unanswered`` (names).

    ``reason`` is null for a playbook that acts.
    """
    return {
        "rules": [
            {
                "rule": one.rule.name,
                "source": one.rule.source,
                "priority": one.rule.priority_name,
                "effect": one.effect,
                "asks": one.asks,
                "playbooks": [
                    {
                        "name": playbook.name,
                        "mode": playbook.mode,
                        "effect": playbook.effect,
                        "asks": playbook.asks,
                        "reason": playbook.reason or None,
                    }
                    for playbook in one.playbooks
                ],
            }
            for one in found.answered
        ],
        "unanswered": [rule.name for rule in found.unanswered],
    }
