"""The connection to Slack for buttons, according to the settings."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import structlog

from engine.model.errors import SettingsError
from engine.outbound.secrets import Secrets
from engine.server.slack_approvals import SlackApprovals
from engine.server.slack_messages import SlackMessages, Update

if TYPE_CHECKING:
    import contextlib
    from pathlib import Path

    from engine.journal.protocol import History
    from engine.outbound.sender import Sender
    from engine.outbound.slack_socket import SlackSocket
    from engine.runtime.settings import Settings
    from engine.runtime.worker_channel import WorkerProcess
    from engine.server.operator_auth import OperatorsFile
    from engine.server.operator_commands import OperatorCommands

log = structlog.get_logger()
TIMEOUT = 10.0
"""Seconds for a call of the Web API."""


def check_slack(settings: Settings, operators: OperatorsFile | None) -> None:
    """Raise SettingsError if buttons are asked for and cannot work."""
    file = settings.slack_app_token_file
    if file is None:
        return
    if operators is None:
        raise SettingsError(
            "--slack-app-token-file needs --operators-file: lines `NAME operate slack:TEAM/USER`"
        )
    if not file.is_file():
        raise SettingsError(f"--slack-app-token-file: {file} is not a file")


def start_slack(
    settings: Settings,
    operators: OperatorsFile | None,
    journal: History,
    commands: OperatorCommands,
    workers: WorkerProcess,
    stack: contextlib.ExitStack,
) -> list[SlackSocket]:
    """Connect to Slack if there is an app token. Return the connection, if any. The stack disconnects.

    A dry run does not connect: Slack sends each press to only one of an app's connections.
    """
    file = settings.slack_app_token_file
    if file is None or operators is None:
        return []
    if settings.dry_run:
        log.info("slack_not_connected", reason="dry run")
        return []
    # late, because it loads the WebSocket and HTTP libraries
    from engine.outbound.slack_socket import SlackSocket  # noqa: PLC0415 - see the comment above

    messages = SlackMessages(journal, commands, _Poster(settings.secrets_dir, settings.slack_api))
    observers = commands.observers
    approvals = SlackApprovals(journal, commands, operators, messages, observers.notify)
    observers.add(approvals)
    workers.on_hold_expired = lambda hold: messages.add(Update(hold.run, hold.message))
    app_tokens = Secrets(file.parent)
    socket = SlackSocket(
        settings.slack_api,
        lambda: app_tokens.read(file.name),
        approvals.on_envelope,
        approvals.on_oversized,
    )
    for part in (messages, socket):
        part.start()
        stack.callback(part.stop)
    return [socket]


class _Poster:
    """Calls the Web API with a bot token of ``--secrets-dir``."""

    def __init__(self, secrets_dir: Path | None, api: str) -> None:
        self._secrets, self._api = Secrets(secrets_dir), api

    @cached_property
    def _sender(self) -> Sender:
        from engine.outbound.sender import Sender  # noqa: PLC0415 - loads the HTTP libraries

        return Sender()

    def call(self, token: str, method: str, body: dict[str, Any]) -> None:
        """See Poster.call."""
        from engine.outbound.slack import call_web_api  # noqa: PLC0415 - takes 100 ms

        login = self._secrets.read(token), self._api
        call_web_api(self._sender, login, method, body, TIMEOUT)
