"""The run that notifies people when a step is held (``onHeld`` of the Guardrails).

The run has the notify steps, and the data of the hold in its attempt state. It is written in the same
transaction as the hold, so a crash neither loses nor repeats the run.
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


def hold_notification(
    claim: Claim, guardrails: Guardrails, times: tuple[float, float], reason: str
) -> Notice | None:
    """Return the notification for the hold of a step, or None without ``onHeld``.

    times: the start and the end of the hold, in epoch seconds.
    """
    if not guardrails.on_held:
        return None
    playbook, step = claim.run.playbook, claim.step.name
    # with the fence: a step that is held again after a retry notifies again
    key = f"held\0{claim.run.id}\0{step}\0{claim.fence}"
    id_ = hashlib.sha256(key.encode()).hexdigest()[:32]
    document: dict[str, Any] = {
        "apiVersion": API_VERSION,
        "kind": "Playbook",
        "metadata": {"name": playbook.name, "labels": dict(playbook.labels)},
        "spec": {
            "match": {"everything": True},
            # if one channel fails, the others still notify
            "actions": [
                {"onFailure": "continue", **one} for one in msgspec.json.decode(guardrails.on_held)
            ],
        },
    }
    notify = playbook_from_snapshot(
        msgspec.json.encode(document, order="deterministic"), load_actions()
    )
    now, end = times
    until = format_time(int(end) * 1_000_000_000)
    about = {"run": claim.run.id, "step": step, "until": until, "reason": reason}
    run = Run(id_, notify, claim.run.event, now, id_, claim.run.trace, claim.run.revision)
    return Notice(run, {"about": about})
