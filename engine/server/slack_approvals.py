"""Decisions on held steps by buttons in Slack messages.

A press arrives through Socket Mode. Slack authenticates the user, the workspace and the app. The operators file
maps the user to an operator. The value of a button is compared with the journal. After a decision, also by a
command, the message shows who decided.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from engine.actions.slack_post import BUTTONS
from engine.model.errors import JournalError, TemporaryError
from engine.server.operator_auth import check_role
from engine.server.operator_commands import Author, OperatorCommandError
from engine.server.slack_messages import PrivateNote, Update, place, posted, token_of
from engine.telemetry.events import CommandExecuted, CommandRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.journal.protocol import History
    from engine.journal.records import RunRecord
    from engine.server.operator_auth import OperatorsFile
    from engine.server.operator_commands import OperatorCommands
    from engine.server.slack_messages import SlackMessages
    from engine.telemetry.events import EngineEvent

log = structlog.get_logger()
MAX_SEEN = 10_000
"""Envelopes that are remembered, so that one that Slack sends again is not handled twice."""
_ID = re.compile(r"[A-Z0-9]{2,32}")
_VERDICTS = {f"{BUTTONS}-approve": "approve", f"{BUTTONS}-deny": "deny"}


class _Button(msgspec.Struct, forbid_unknown_fields=True):
    """The value of a button: ids of the held run, and of the run that posted the message."""

    run: str
    notice: str


class _Identified(msgspec.Struct):
    id: str = ""
    team_id: str | None = None


class _Action(msgspec.Struct):
    action_id: str = ""
    value: str = ""


class _Container(msgspec.Struct):
    channel_id: str = ""
    message_ts: str = ""


class _Press(msgspec.Struct):
    """The payload of an envelope: a press of a button (``block_actions``)."""

    type: str
    user: _Identified
    actions: list[_Action]
    api_app_id: str = ""
    team: _Identified | None = None
    container: _Container = msgspec.field(default_factory=_Container)


class SlackApprovals:
    """Handles presses of buttons.

    journal: to find the messages. commands: what ``tiercel approve`` uses. refused: receives each refusal, for
    the audit.
    """

    def __init__(
        self,
        journal: History,
        commands: OperatorCommands,
        operators: OperatorsFile,
        messages: SlackMessages,
        refused: Callable[[CommandRefused], None],
    ) -> None:
        self._journal, self._commands, self._operators = journal, commands, operators
        self._messages, self._refused = messages, refused
        self._seen: OrderedDict[str, None] = OrderedDict()

    def __call__(self, engine_event: EngineEvent) -> None:
        """Update the message of a decision by a button or by a command."""
        if isinstance(engine_event, CommandExecuted) and engine_event.what in ("approve", "deny"):
            self._messages.add(Update(engine_event.run or ""))

    def on_oversized(self) -> None:
        """Audit a message of Slack over the limit."""
        self._refuse("", "", "", "a message of Slack was larger than the limit")

    def on_envelope(self, app: str, envelope: Mapping[str, Any]) -> None:
        """Handle an envelope. app: id of the app of the connection. Raises TemporaryError to get it again."""
        id_ = str(envelope["envelope_id"])
        if envelope.get("type") != "interactive" or id_ in self._seen:
            return
        try:
            press = msgspec.convert(envelope.get("payload"), _Press)
        except msgspec.ValidationError:
            self._refuse("", "", "", "the payload is not a press of a button")
        else:
            self._press(app, press)
        self._seen[id_] = None
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)

    def _press(self, app: str, press: _Press) -> None:
        verdict = _VERDICTS.get(press.actions[0].action_id) if len(press.actions) == 1 else None
        if verdict is None or press.type != "block_actions":
            return  # an element that a playbook has put into its own blocks
        team = press.user.team_id or (press.team.id if press.team else "")
        who = f"{team[:40]}/{press.user.id[:40]}"
        try:
            button = msgspec.json.decode(press.actions[0].value[:200], type=_Button)
        except (msgspec.DecodeError, msgspec.ValidationError):
            self._refuse(verdict, f"slack:{who}", "", "the value of the button is not valid")
            return
        try:
            if press.api_app_id != app:
                raise OperatorCommandError("the button belongs to another Slack app")
            author = Author(self._operator(team, press.user.id), f"Slack button ({who})")
            self._check_button(button, press.container)
            self._commands.decide(button.run, verdict, author)
        except OperatorCommandError as error:
            self._refuse(verdict, f"slack:{who}", button.run, str(error))
            self._tell(str(error), press, button)
        except JournalError as error:
            raise TemporaryError(str(error)) from None

    def _operator(self, team: str, user: str) -> str:
        """Return the name of the operator. Raises OperatorCommandError for others."""
        known = _ID.fullmatch(team) and _ID.fullmatch(user)
        operator = self._operators.by_slack(team, user) if known else None
        if operator is None:
            raise OperatorCommandError("no operator has this Slack account", 403)
        name = check_role(operator, "decide")
        if not isinstance(name, str):
            what = f"{operator.name} has the role view, which does not allow commands"
            raise OperatorCommandError(what, 403)
        return name

    def _check_button(self, button: _Button, container: _Container) -> None:
        """Raise OperatorCommandError if the button is not of the message about the current hold of the run."""
        record = self._commands.find(button.run)
        is_current = record.run.id == button.run and record.notice == button.notice
        notice = self._journal.find(button.notice) if is_current else None
        if notice is None:
            raise OperatorCommandError("the button does not belong to the current hold of this run")
        places = [place(one) for one in posted(notice)]
        if places and (container.channel_id, container.message_ts) not in places:
            raise OperatorCommandError("the button is not in the message about this hold")

    def _refuse(self, verdict: str, by: str, run: str, why: str) -> None:
        """Audit a press that does nothing."""
        self._refused(CommandRefused(verdict, by, self._commands.now(), run[:32], why))

    def _tell(self, why: str, press: _Press, button: _Button) -> None:
        """Tell the person why a press does nothing, and bring the message up to date."""
        notice = self._find(button.notice)
        for result in posted(notice) if notice else ():
            channel, ts = place(result)
            if notice and (channel, ts) == (press.container.channel_id, press.container.message_ts):
                token = token_of(notice, result.step)
                self._messages.add(PrivateNote(why, token, channel, press.user.id))
                self._messages.add(Update(button.run))

    def _find(self, run: str) -> RunRecord | None:
        """Return a run, or None if it does not exist or cannot be read."""
        try:
            return self._commands.find(run)
        except (OperatorCommandError, JournalError):
            return None
