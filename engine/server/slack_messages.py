"""The Slack messages about holds: update them, and notify a person why a press has no effect.

A thread calls Slack, so that neither presses nor commands wait for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from engine.actions.slack_post import BLOCKS, BUTTONS, TEXT, cut, escape
from engine.model.errors import JournalError, PermanentError, TemporaryError
from engine.server.operator_commands import OperatorCommandError

if TYPE_CHECKING:
    from engine.journal.protocol import History
    from engine.journal.records import RunRecord
    from engine.model.run import StepResult
    from engine.server.operator_commands import OperatorCommands

log = structlog.get_logger()
MAX_PENDING = 1_000
"""Changes that wait for Slack. With more of them, the oldest is dropped."""
MAX_TRIES = 8
"""Attempts to send a change."""
FIRST_RETRY = 1.0
"""Seconds between the first two attempts. They double: 1, 2, 4… 64 s."""
_MAX_SENTENCE = 2_000
"""Characters of the sentence below a message."""
_WORDS = {"approve": "Approved", "deny": "Denied"}


class Poster(Protocol):
    """Calls the Web API of Slack with the bot token of a secret."""

    def call(self, token: str, method: str, body: dict[str, Any]) -> None:
        """Call a method. token: name of the secret. Raises TemporaryError, PermanentError."""
        ...


@dataclass(frozen=True, slots=True)
class Update:
    """A run whose message is to be brought up to date. message: why the hold ended without an operator."""

    run: str
    message: str = ""
    tries: int = 0
    due: float = 0.0


@dataclass(frozen=True, slots=True)
class PrivateNote:
    """A sentence for the person who pressed a button. token: name of the secret of the bot."""

    text: str
    token: str
    channel: str
    user: str
    due: float = 0.0


class SlackMessages:
    """Sends changes of messages to Slack, in a thread of its own."""

    def __init__(self, journal: History, commands: OperatorCommands, poster: Poster) -> None:
        self._journal, self._commands, self._poster = journal, commands, poster
        self._pending: deque[Update | PrivateNote] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(
            target=self._work, name="tiercel-slack-messages", daemon=True
        )

    def start(self) -> None:
        """Start to send changes."""
        self._thread.start()

    def stop(self) -> None:
        """Stop. Messages that are not updated keep their buttons; a press then says that the hold is over."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(5.0)

    def add(self, item: Update | PrivateNote) -> None:
        """Send a change soon."""
        with self._changed:
            if len(self._pending) >= MAX_PENDING:
                self._pending.popleft()
                log.warning("slack_update_dropped", limit=MAX_PENDING)
            self._pending.append(item)
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                item = self._next()
            if item is None:
                return
            try:
                self._send(item)
            except (TemporaryError, JournalError) as error:
                self._again(item, str(error))
            except (PermanentError, OperatorCommandError) as error:
                log.warning("slack_message_not_updated", error=str(error))
            except Exception:  # a bug in one update must not end the thread
                log.exception("slack_message_failed")

    def _next(self) -> Update | PrivateNote | None:
        """Return the next item that is due, None to stop. Waits; the caller has the lock."""
        while not self._stopping:
            now = time.monotonic()
            for number, item in enumerate(self._pending):
                if item.due <= now:
                    del self._pending[number]
                    return item
            first = min((item.due for item in self._pending), default=None)
            self._changed.wait(None if first is None else max(0.0, first - now))
        return None

    def _again(self, item: Update | PrivateNote, error: str) -> None:
        if isinstance(item, PrivateNote) or item.tries + 1 >= MAX_TRIES:
            log.warning("slack_message_not_updated", error=error)
            return
        due = time.monotonic() + FIRST_RETRY * 2.0**item.tries
        self.add(replace(item, tries=item.tries + 1, due=due))

    def _send(self, item: Update | PrivateNote) -> None:
        """Send a change. Raises TemporaryError, PermanentError, JournalError, OperatorCommandError."""
        if isinstance(item, PrivateNote):
            body = {"channel": item.channel, "user": item.user, "text": escape(item.text)}
            self._poster.call(item.token, "chat.postEphemeral", body)
            return
        record = self._commands.find(item.run)
        notice = self._journal.find(record.notice) if record.notice else None
        sentence = escape(item.message) or _decisions(record)
        if not sentence or notice is None or not _has_buttons(notice):
            return
        if notice.outcome is None:
            raise TemporaryError("the message about the hold is not posted yet")
        for result in posted(notice):
            channel, ts = place(result)
            is_open = not item.message and self._is_held(record)
            body = {
                "channel": channel,
                "ts": ts,
                **_updated(result, sentence, keep_buttons=is_open),
            }
            self._poster.call(token_of(notice, result.step), "chat.update", body)

    def _is_held(self, record: RunRecord) -> bool:
        """Return whether the run still waits for a person. A decision makes it due at once."""
        is_held = bool(record.results) and record.results[-1].state == "held"
        return is_held and record.due_at is not None and record.due_at > self._commands.now()


def posted(notice: RunRecord) -> list[StepResult]:
    """Return the results of the steps that posted a message with buttons."""
    return [one for one in notice.results if token_of(notice, one.step) and all(place(one))]


def _has_buttons(notice: RunRecord) -> bool:
    return any(token_of(notice, step.name) for step in notice.run.steps)


def token_of(notice: RunRecord, name: str) -> str:
    """Return the name of the secret with which a step posts a message with buttons, "" for other steps."""
    step = next((one for one in notice.run.steps if one.name == name), None)
    if step is None or step.action != "slack.post" or not step.parameters.get("buttons"):
        return ""
    token = step.parameters.get("token")
    return str(token.name) if token else ""


def place(result: StepResult) -> tuple[str, str]:
    """Return channel and timestamp of a posted message, empty if it was not posted."""
    answer = result.answer if isinstance(result.answer, dict) else {}
    return str(answer.get("channel") or ""), str(answer.get("ts") or "")


def _updated(result: StepResult, sentence: str, *, keep_buttons: bool) -> dict[str, Any]:
    """Return text and blocks of a message with a sentence below it."""
    sentence = cut(sentence, _MAX_SENTENCE)
    body = result.requests[-1].body if result.requests else None
    old = body if isinstance(body, dict) else {}
    kept = [
        one
        for one in old.get("blocks") or ()
        if isinstance(one, dict) and (keep_buttons or one.get("block_id") != BUTTONS)
    ]
    shown = {"type": "mrkdwn", "text": sentence, "verbatim": True}
    blocks = [*kept[: BLOCKS - 1], {"type": "context", "elements": [shown]}]
    text = f"{cut(str(old.get('text') or ''), TEXT - len(sentence) - 1)}\n{sentence}"
    return {"text": text, "blocks": blocks}


def _decisions(record: RunRecord) -> str:
    """Return one line for each decision on the step that was decided last."""
    found = [one for one in record.decisions if one.what in _WORDS]
    lines = [
        f"{_WORDS[one.what]} by {one.by} (step {one.step})"
        + (f": {one.reason}" if one.reason else "")
        for one in found
        if one.step == found[-1].step
    ]
    return escape("\n".join(lines))
