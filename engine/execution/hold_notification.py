"""The run that notifies people when a step begins to wait for one (``onHeld`` of the Guardrails).

The run carries the notify steps and its own facts about the hold. It is written together with the hold, so
a crash neither loses it nor makes a second one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from engine.actions.registry import load_actions
from engine.language.compile import playbook_from_snapshot
from engine.language.schema import API_VERSION
from engine.model.event import format_time
from engine.model.run import Notice, Run

if TYPE_CHECKING:
    from engine.model.playbook import Guardrails
    from engine.model.run import Claim


def notice(claim: Claim, guardrails: Guardrails, now: float, reason: str) -> Notice | None:
    """The run for the hold of the claim's step, or None without ``onHeld``. now: epoch seconds."""
    if not guardrails.on_held:
        return None
    playbook, step = claim.run.playbook, claim.step.name
    made = hashlib.sha256(f"held\0{claim.run.id}\0{step}\0{claim.fence}".encode()).hexdigest()[:32]
    snapshot: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "Playbook",
        "metadata": {"name": playbook.name, "labels": dict(playbook.labels)},
        "spec": {
            "match": {"everything": True},
            # one channel that fails does not keep the others from hearing of it
            "actions": [
                {"onFailure": "continue", **one} for one in msgspec.json.decode(guardrails.on_held)
            ],
        },
    }
    steps = playbook_from_snapshot(
        msgspec.json.encode(snapshot, order="deterministic"), load_actions()
    )
    until = format_time(int(now + guardrails.hold_for) * 1_000_000_000)
    about = {"run": claim.run.id, "step": step, "until": until, "reason": reason}
    return Notice(Run(made, steps, claim.run.event, now, made), {"about": about})
