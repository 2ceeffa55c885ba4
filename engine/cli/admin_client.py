"""Client of the admin port, and the options of the commands that use it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from engine.cli.exit_codes import FINDINGS, USAGE, fail
from engine.model.errors import EventError, file_error
from engine.model.event import parse_event, parse_time
from engine.outbound.destination import mask_userinfo
from engine.render.text import print_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.model.event import Event

DEFAULT_SERVER = "http://127.0.0.1:8081"
_TIMEOUT = 10.0
"""Seconds to wait for the connection, and for each part of the response."""
_URL = re.compile(r"https?://", re.IGNORECASE)
_CONNECTION = re.compile(r"^HTTPS?Connection(?:Pool)?\([^)]*\): ")
"""The beginning of urllib3's messages, which repeats the address."""


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options --server and --token-file to a command."""
    token = click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar="TIERCEL_OPERATOR_TOKEN_FILE",
        show_envvar=True,
        help="File with the token of an operator.",
    )
    server = click.option(
        "--server", metavar="URL", default=DEFAULT_SERVER, show_default=True,
        envvar="TIERCEL_SERVER", show_envvar=True,
        help="Admin port of the running engine.",
    )  # fmt: skip
    decorated: Callable[..., Any] = server(token(function))
    return decorated


def reason_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option --reason to a command."""
    return click.option(
        "--reason", metavar="TEXT", help="Reason, which the audit and the history keep."
    )(function)


def json_body(**values: str | None) -> dict[str, str]:
    """Return the body of a POST: the options that were given. The name ``from_`` becomes ``from``."""
    return {key.rstrip("_"): value for key, value in values.items() if value is not None}


class AdminError(Exception):
    """The engine does not respond (status is None), or refuses a request.

    code: for the exit. hint: the next command, or "".
    """

    def __init__(self, what: str, code: int, hint: str, status: int | None = None) -> None:
        super().__init__(what)
        self.code, self.hint, self.status = code, hint, status


def fetch(server: str, token_file: Path | None, path: str) -> Any:
    """Return the JSON response to a GET. Raises AdminError."""
    return _request("GET", server.rstrip("/") + path, token_file)


def get(server: str, token_file: Path | None, path: str) -> Any:
    """Return the JSON response to a GET.

    Exits with code 2 if the engine does not respond or the request is wrong, with 1 if the engine refuses.
    """
    try:
        return fetch(server, token_file, path)
    except AdminError as error:
        fail(str(error), error.code, error.hint)


def post(server: str, token_file: Path | None, path: str, body: dict[str, Any]) -> Any:
    """Return the JSON response to a POST. Exits in the same way as ``get``."""
    try:
        return _request("POST", server.rstrip("/") + path, token_file, json.dumps(body).encode())
    except AdminError as error:
        fail(str(error), error.code, error.hint)


def print_note(response: dict[str, Any]) -> None:
    """Print the note of a response to stderr. The command succeeded, but perhaps not as expected."""
    if response.get("note"):
        print_line(str(response["note"]), err=True)


def _request(method: str, url: str, token_file: Path | None, body: bytes | None = None) -> Any:
    import urllib3  # noqa: PLC0415 - 30 ms that only these commands need

    shown = mask_userinfo(url)
    if not _URL.match(url):
        hint = f"Pass the URL of the admin port, for example: --server {DEFAULT_SERVER}"
        raise AdminError(f"{shown} does not begin with http:// or https://", USAGE, hint)
    headers = {"content-type": "application/json"} if body is not None else {}
    if token_file:
        headers["authorization"] = f"Bearer {_token(token_file)}"
    try:
        response = urllib3.request(
            method, url, body=body, headers=headers, timeout=_TIMEOUT, retries=False, redirect=False
        )
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        reason = _CONNECTION.sub("", str(error))[:200].replace(url, shown)
        hint = "Start an engine with tiercel serve, or pass --server URL."
        raise AdminError(f"{shown}: {reason}", USAGE, hint) from None
    try:
        data = json.loads(response.data)
    except ValueError:
        hint = f"Pass the admin port of the engine, for example: --server {DEFAULT_SERVER}"
        what = f"{shown}: this is not the admin port of an engine (HTTP {response.status})"
        raise AdminError(what, USAGE, hint) from None
    if response.status != 200:  # noqa: PLR2004 - OK
        details = data if isinstance(data, dict) else {}
        what = str(details.get("error") or f"{shown}: {response.status}")
        hint = str(details.get("hint") or "")
        raise AdminError(what, _exit_code(response.status), hint, response.status)
    return data


def _token(file: Path) -> str:
    """Return the first token of a credentials file. Exits with code 2 if there is none."""
    from engine.server.credentials_file import read_lines  # noqa: PLC0415 - --help must be fast

    try:
        found = read_lines(file)
    except (OSError, ValueError) as error:
        fail(f"--token-file: {file_error(error)}", USAGE)
    if not found:
        fail(f"--token-file: {file} contains no token", USAGE)
    return found[0][1].decode("latin-1")


def _exit_code(status: int) -> int:
    """Return FINDINGS if the engine refuses the request for this run, USAGE if the request is wrong."""
    return FINDINGS if status in (404, 409, 410) else USAGE


def recent_events(
    server: str, token_file: Path | None, digest: str
) -> list[tuple[Event, dict[str, str]]]:
    """Return the last events of the engine, oldest first, each with suppressed playbooks -> reason.

    digest: the digest of the local set. If the engine uses another set, a note is printed to stderr.
    """
    body = get(server, token_file, "/events/recent")
    if body["digest"] != digest:
        note = "The engine uses a different set of playbooks. The explanation is for the local PLAYBOOKS."
        print_line(note, err=True)
    events = []
    for number, item in enumerate(body["events"]):
        try:
            received = parse_time(item["received"])
            event = parse_event(item["alert"], received_ns=received, salt=f"event {number}")
            events.append((event, item.get("suppressed", {})))
        except EventError:  # an engine of another version accepted it
            continue
    return events


def run_path(run: str, command: str) -> str:
    """Return the URL path of a command on a run, for example ``/runs/ID/approve``."""
    return f"/runs/{quote(run, safe='')}/{command}"
