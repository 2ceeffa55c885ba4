"""What commands share that ask a running engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from engine.cli.playbook_arguments import fail
from engine.model.errors import EventError
from engine.model.event import parse_event, parse_time
from engine.outbound.destination import mask_userinfo
from engine.render.text import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.model.event import Event

DEFAULT_SERVER = "http://127.0.0.1:8081"
_SECONDS = 10.0


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options --server and --token-file."""
    token = click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar="TIERCEL_OPERATOR_TOKEN_FILE",
        show_envvar=True,
        help="File with an operator's token.",
    )
    server = click.option(
        "--server", metavar="URL", default=DEFAULT_SERVER, show_default=True,
        envvar="TIERCEL_SERVER", show_envvar=True,
        help="The running engine's admin port.",
    )  # fmt: skip
    decorated: Callable[..., Any] = server(token(function))
    return decorated


def reason_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option --reason."""
    return click.option("--reason", metavar="TEXT", help="Why; kept in the audit and the history.")(
        function
    )


def json_body(**given: str | None) -> dict[str, str]:
    """The body of a POST: the options that are given; ``from_`` is ``from``."""
    return {key.rstrip("_"): value for key, value in given.items() if value is not None}


def get(server: str, token_file: Path | None, path: str) -> Any:
    """The JSON that the engine answers to a GET; exit 2 where it answers none, 1 where it refuses."""
    return _call("GET", server.rstrip("/") + path, token_file)


def post(server: str, token_file: Path | None, path: str, given: dict[str, Any]) -> Any:
    """The JSON that the engine answers to a POST; exit 2 where it answers none, 1 where it refuses."""
    return _call("POST", server.rstrip("/") + path, token_file, json.dumps(given).encode())


def print_note(said: dict[str, Any]) -> None:
    """Write what the engine adds to an answer, on stderr: it was done, and perhaps not as it was meant."""
    if said.get("note"):
        say(str(said["note"]), err=True)


def _call(method: str, url: str, token_file: Path | None, sent: bytes | None = None) -> Any:
    import urllib3  # noqa: PLC0415 - 30 ms that only these commands need

    shown = mask_userinfo(url)
    headers = {"content-type": "application/json"} if sent is not None else {}
    if token_file:
        headers["authorization"] = f"Bearer {_token(token_file)}"
    try:
        answer = urllib3.request(
            method, url, body=sent, headers=headers, timeout=_SECONDS, retries=False, redirect=False
        )
        body = json.loads(answer.data)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        reason = str(error)[:200].replace(url, shown)
        fail(f"{shown}: {reason}", 2, "Is an engine running there? tiercel serve, or --server URL")
    if answer.status != 200:  # noqa: PLR2004 - OK
        said = body if isinstance(body, dict) else {}
        what = str(said.get("error") or f"{shown}: {answer.status}")
        fail(what, _code(answer.status), str(said.get("hint") or ""))
    return body


def _token(file: Path) -> str:
    """The first token of a credentials file; exit 2 if there is none."""
    from engine.server.credentials_file import lines  # noqa: PLC0415 - --help must be quick

    try:
        found = lines(file)
    except (OSError, ValueError) as error:
        fail(f"--token-file: {error}", 2)
    if not found:
        fail(f"--token-file: {file} contains no token", 2)
    return found[0][1].decode("latin-1")


def _code(status: int) -> int:
    """The exit of a refusal: 1 where the engine will not do it to this run, 2 where it was asked wrongly."""
    return 1 if status in (404, 409, 410) else 2


def recent_events(
    server: str, token_file: Path | None, digest: str
) -> list[tuple[Event, dict[str, str]]]:
    """The last events that the engine got, the oldest first; of each, the playbooks that it suppressed and why.

    digest: of the local set; where the engine has another one in force, that is said on stderr.
    """
    body = get(server, token_file, "/events/recent")
    if body["digest"] != digest:
        say(
            "The engine has another set in force than these PLAYBOOKS; they are explained.",
            err=True,
        )
    events = []
    for number, got in enumerate(body["events"]):
        try:
            received = parse_time(got["received"])
            event = parse_event(got["alert"], received_ns=received, salt=f"event {number}")
            events.append((event, got.get("suppressed", {})))
        except EventError:  # it was one to the engine: another version
            continue
    return events


def run_path(run: str, act: str) -> str:
    """The path of an act on a run."""
    return f"/runs/{quote(run, safe='')}/{act}"
