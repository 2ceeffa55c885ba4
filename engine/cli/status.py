"""tiercel status."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from engine.cli.admin_client import AdminError, fetch, get, server_options
from engine.cli.exit_codes import FINDINGS, fail
from engine.cli.playbook_arguments import load_valid
from engine.language import duration
from engine.render.rights import rights_lines
from engine.render.text import count, print_document, print_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_POLL = 0.5
"""Seconds between two requests while waiting."""
_REFUSED = (401, 403)
_QUEUE = ("waiting", "running", "held")
_UNKNOWN = "unknown, because the journal cannot be read"


@click.command("status")
@click.option(
    "--wait-for",
    "playbooks",
    metavar="PLAYBOOKS",
    help="Wait until the engine uses the playbooks of this folder.",
)
@click.option(
    "--timeout",
    metavar="DURATION",
    default="3m",
    show_default=True,
    help="Longest wait with --wait-for.",
)
@click.option("-o", "--output", "fmt", type=click.Choice(["text", "json"]), default="text")
@server_options
def command(
    *, playbooks: str | None, timeout: str, fmt: str, server: str, token_file: Path | None
) -> None:
    """Show what a running engine uses and does: version, mode, playbooks, queue.

    With --wait-for, the command computes the digest of a folder, as `tiercel digest` does, and waits until the
    engine, and each replica that shares its journal, reports the same digest. An engine that does not respond,
    for example because it restarts, is asked again until the timeout. Exit code 1: the engine does not use these
    playbooks after the timeout.

    \b
    Examples:
      tiercel status
      tiercel status --wait-for playbooks/ --timeout 3m

    Next: tiercel history
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    seconds = duration.seconds(timeout)
    if seconds is None:
        raise click.BadParameter(
            f"`{timeout[:40]}` is not a duration {duration.HINT}", param_hint="--timeout"
        )
    if playbooks is None:
        found = get(server, token_file, "/status")
    else:
        found = _wait(server, token_file, load_valid([playbooks], None).digest, seconds)
    if fmt == "json":
        print_document(json.dumps(found))
        return
    for line in _lines(found):
        print_line(line)


def _wait(server: str, token_file: Path | None, digest: str, seconds: float) -> dict[str, Any]:
    """Return the status as soon as the engine and its replicas report the digest.

    Exits with code 1 after the timeout, and with code 2 if the engine does not accept the token.
    """
    deadline, before = time.monotonic() + seconds, ""
    while True:
        try:
            found: dict[str, Any] = fetch(server, token_file, "/status")
            others = [
                one for one in found.get("replicas") or () if one["digest"] not in (digest, None)
            ]
            if found["playbooks"]["digest"] == digest and not others:
                return found
            state = _difference(found["playbooks"], others)
        except AdminError as error:
            if error.status in _REFUSED:
                fail(str(error), error.code, error.hint)
            state = str(error)
        if state != before:
            print_line(f"Waiting for {digest}: {state}", err=True)
            before = state
        if time.monotonic() + _POLL >= deadline:
            message = f"These playbooks are not in force after {duration.text(seconds)}: {state}"
            hint = "Next: tiercel check PLAYBOOKS, and the log of the engine (playbooks_refused)."
            fail(message, FINDINGS, hint)
        time.sleep(_POLL)


def _difference(playbooks: dict[str, Any], others: Sequence[dict[str, Any]]) -> str:
    """Return what is in force instead. others: the replicas that use other playbooks."""
    error = playbooks.get("error")
    because = f", because it refuses the new ones: {error!s}" if error else ""
    uses = f"the engine uses {playbooks['digest']}{because}"
    return "; ".join([uses, *(f"replica {one['name']} uses {one['digest']}" for one in others)])


def _lines(found: dict[str, Any]) -> list[str]:
    """Return the status as text. The page /status has more keys."""
    playbooks, queue, spool = found["playbooks"], found["queue"], found.get("spool")
    paused = ", ".join("all" if name == "*" else name for name in found["paused"] or ()) or "no"
    counts = ", ".join(f"{queue[name]} {name}" for name in _QUEUE) if queue else _UNKNOWN
    rows = {
        "version": found["version"],
        "mode": found["mode"],
        "paused": paused if queue else _UNKNOWN,
        "playbooks": f"{playbooks['digest']} ({count(len(playbooks['files']), 'file')})",
        "revision": playbooks.get("revision"),
        "error": playbooks.get("error"),
        "queue": counts,
        "journal": found["journal"]["error"],
        "spool": f"{count(spool['runs'], 'run')} in {spool['file']}" if spool else None,
    }
    lines = [f"{name:<10} {text}" for name, text in rows.items() if text is not None]
    for one in found.get("replicas") or ():
        digest = one["digest"] or "playbooks not known yet"
        lines.append(f"{'replica':<10} {one['name']} {one['version']}, {digest}")
    rights = found.get("rights")
    return lines + [f"{'rights':<10} {line}" for line in (rights_lines(rights) if rights else ())]
