"""slack.post: post a message to Slack."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from engine.actions.composite_parameters import Json
from engine.actions.parameters import Secret, Text
from engine.actions.registry import ActionResult, StepContext, action
from engine.language.template import ABSENT, Template, text_of
from engine.model.calls import SecretName
from engine.model.errors import PermanentError, RefusedError, TemporaryError
from engine.model.event_subject import subject_of
from engine.model.json_codec import encode_json
from engine.outbound.api import BlocksRefusedError, HttpClient

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.language.findings import Findings
    from engine.language.template import TemplateContext
    from engine.language.yaml_source import Path
    from engine.model.event import Event
    from engine.outbound.api import Answer

BUTTONS = "tiercel-hold"
"""``block_id`` of the buttons. Their ``action_id`` adds ``-approve`` or ``-deny``."""
_CHANNEL = re.compile(r"[#@]?[\w-]{1,80}")
_OPEN = re.compile(r"(?:<[^<>]*|&(?:a(?:mp?)?|lt?|gt?)?)\Z")
"""An incomplete entity or link at the end of a text."""
TEXT, SECTION, BLOCKS = 40_000, 3000, 50
"""The limits of Slack: characters of a message, characters of a section, blocks of a message."""
_MAX_SHOWN = 500
"""Characters of one value in the default text."""
_DEFAULT_LIMIT = 3000
"""Characters of a text object that is not in ``_LIMITS``."""
_LIMITS = {
    ("header", "text"): 150,
    ("section", "text"): SECTION,
    ("section", "fields"): 2000,
    ("button", "text"): 75,
    ("button", "value"): 2000,
    ("image", "title"): 2000,
    ("image", "alt_text"): 2000,
    ("input", "label"): 2000,
    ("input", "hint"): 2000,
    ("video", "title"): 199,
    ("video", "alt_text"): 2000,
    ("video", "description"): 199,
    ("markdown", "text"): 12_000,
}
"""(type of the block or element, key) -> characters of its text (docs.slack.dev, Block Kit reference)."""


def check_channel(text: str) -> str | None:
    """Return what is wrong with the id or name of a channel, or None."""
    return None if _CHANNEL.fullmatch(text) else "is not a valid id or name of a Slack channel"


def escape(text: str) -> str:
    """Escape text for Slack. An escaped value from an event cannot create a link or a mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def cut(text: str, most: int) -> str:
    """Cut an escaped text to at most ``most`` characters. Entities and links stay complete."""
    if len(text) <= most:
        return text
    return _OPEN.sub("", text[: max(most - 1, 0)]) + "…"[:most]


def render_within(template: Template, event: Event, context: TemplateContext, most: int) -> str:
    """Render a template in at most ``most`` characters. The longest values from the event are cut."""
    values: list[str] = []

    def collect(text: str) -> str:
        values.append(escape(text))
        return ""

    available = most - len(template.render(event, context, collect))
    share = _share([len(text) for text in values], available)
    remaining = iter(values)
    return template.render(event, context, lambda _: cut(next(remaining), share))


def _share(lengths: list[int], available: int) -> int:
    """Return the most characters that each text can have, so that all of them fit into ``available``."""
    left = max(available, 0)
    for n, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - n)
        if length > share:
            return share
        left -= length
    return max(lengths, default=0)


class Message(msgspec.Struct, frozen=True):
    """The text of a message, within the limit of Slack."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return a Template."""
        template = Text(escape=escape).compile(data, path, findings, steps)
        _check_length(template, TEXT, path, findings)
        return template

    def render(self, value: Template, event: Event, context: TemplateContext) -> str:
        """Return the rendered text."""
        return render_within(value, event, context, TEXT)

    def schema(self) -> dict[str, Any]:
        """Return the schema of a string."""
        return Text().schema()


class Blocks(msgspec.Struct, frozen=True):
    """Block Kit blocks. Each text stays within the limit of Slack.

    A mrkdwn text with fields of the event is sent with ``verbatim: true``. Slack then creates no links from
    URLs and names in it. A ``markdown`` block cannot have fields of the event, because they could create links.
    """

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """Return the blocks with compiled strings."""
        if not isinstance(data, list) or not data:
            findings.add(path, "bad-parameter", "`blocks` takes a list with at least one block")
            return None
        if len(data) > BLOCKS:
            what = f"a Slack message has at most {BLOCKS} blocks; these are {len(data)}"
            findings.add(path, "bad-parameter", what)
        compiled = Json(escape).compile(data, path, findings, steps)
        for place, template, limit in _texts(compiled, path, _DEFAULT_LIMIT):
            _check_length(template, limit, place, findings)
        for n, block in enumerate(compiled):
            if _kind(block) == "markdown" and any(
                t.names for _, t, _ in _texts(block, (), _DEFAULT_LIMIT)
            ):
                what = "a markdown block cannot have fields of the event: they could create links"
                hint = "use a section with a mrkdwn text"
                findings.add((*path, n), "bad-parameter", what, hint)
        return compiled

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """Return the blocks with rendered strings."""
        return _rendered(value, event, context, _DEFAULT_LIMIT)

    def schema(self) -> dict[str, Any]:
        """Return the schema of a list of objects."""
        return {"type": "array", "minItems": 1, "maxItems": BLOCKS, "items": {"type": "object"}}


def _rendered(value: Any, event: Event, context: TemplateContext, limit: int) -> Any:
    """Render the strings in a part of the blocks. limit: characters of a text object at this place."""
    if isinstance(value, Template):
        return render_within(value, event, context, limit)
    if isinstance(value, list):
        return [_rendered(one, event, context, limit) for one in value]
    if not isinstance(value, dict):
        return value
    rendered = {
        key: _rendered(one, event, context, _limit(value, key, limit)) for key, one in value.items()
    }
    text = value.get("text")
    if _kind(value) == "mrkdwn" and isinstance(text, Template) and text.names:
        rendered["verbatim"] = True
    return rendered


def _texts(value: Any, path: Path, limit: int) -> Iterator[tuple[Path, Template, int]]:
    """Yield each text of compiled blocks, with its place and its limit."""
    if isinstance(value, Template):
        yield path, value, limit
    elif isinstance(value, list):
        for n, one in enumerate(value):
            yield from _texts(one, (*path, n), limit)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _texts(one, (*path, key), _limit(value, key, limit))


def _limit(holder: dict[str, Any], key: str, limit: int) -> int:
    """Return the limit of the text under the key. The limit of a text object depends on its place."""
    kind = _kind(holder)
    if kind in ("plain_text", "mrkdwn"):
        return limit
    return _LIMITS.get((kind, key), _DEFAULT_LIMIT)


def _kind(value: Any) -> str:
    """Return the ``type`` of a compiled block or element. Empty without one."""
    found = value.get("type") if isinstance(value, dict) else None
    return found.source if isinstance(found, Template) else ""


def _check_length(template: Template | None, most: int, path: Path, findings: Findings) -> None:
    """Add a finding if the literal text alone is too long."""
    literal = sum(len(part) for part in template.parts if isinstance(part, str)) if template else 0
    if literal > most:
        what = f"Slack accepts at most {most:,} characters here; this text has {literal:,}"
        findings.add(path, "bad-parameter", what)


def _check(given: Mapping[str, Any]) -> str | None:
    if ("webhook" in given) == ("token" in given) or ("token" in given) != ("channel" in given):
        return "slack.post needs either `webhook`, or `token` and `channel`"
    if given.get("buttons") is True and "token" not in given:
        return "`buttons` needs `token` and `channel`: the answer to a press changes the message"
    return None


@action(
    "slack.post",
    effect="notify",
    example={
        "webhook": {"fromSecret": "slack-webhook-url"},
        "text": "Isolated %k8s.ns.name/%k8s.pod.name (%rule)",
    },
    repeatable=False,
    check=_check,
)
def post_to_slack(  # noqa: PLR0913 - the signature is the schema
    http: HttpClient,
    context: StepContext,
    *,
    text: Annotated[str | None, Message()] = None,
    webhook: Annotated[SecretName | None, Secret()] = None,
    token: Annotated[SecretName | None, Secret()] = None,
    channel: Annotated[str | None, Text(check_channel)] = None,
    blocks: Annotated[list[Any] | None, Blocks()] = None,
    thread: Literal["run", "none"] = "run",
    buttons: bool = False,
) -> ActionResult:
    """Post a message to Slack. Values from the event are escaped: they cannot create links or mentions.

    Values from the event are cut so that each text stays within the limits of Slack (a message 40,000
    characters, a section 3,000, a field 2,000, a header 150). If Slack refuses the blocks, the text is sent
    without them.

    text: the message. With blocks, it is the text of notifications. Write links as <https://…|words>. A plain
      URL does not become a link. The default names the rule, the pod, the command, the outcome of the run so far
      and the command that undoes it; in onHeld, the step that waits and the command that approves it.
    webhook: the secret with the URL of an incoming webhook.
    token: the secret with a bot token (scope chat:write). It needs a channel.
    channel: the id or name of the channel, with a token.
    blocks: at most 50 Block Kit blocks. A mrkdwn text with fields of the event is sent as verbatim.
    thread: with a token: `run` posts the messages of a run in one thread, `none` posts each one separately.
    buttons: in onHeld, with a token: add buttons that approve and deny the held step. The engine must have
      --slack-app-token-file.
    """
    note = cut(escape(context.note), 2000)
    text = _default_text(context) if text is None else text
    message = _message(text, blocks, note)
    if buttons:
        message["blocks"] = [*message["blocks"][: BLOCKS - 1], _buttons(context)]
    if webhook is not None:
        _, sent_as = _post(http, message, webhook, None)
        return ActionResult(f"to {webhook.name}: {text[:200]}{sent_as}")
    message["channel"] = channel
    first = context.attempt_state.get("slack")
    if thread == "run" and first:
        message |= {"channel": first["channel"], "thread_ts": first["ts"]}
    answer, sent_as = _post(http, message, None, token)
    if thread == "run" and not first and answer.json:
        # if it is not kept, the next message starts another thread; a retry would post this message again
        with contextlib.suppress(TemporaryError, PermanentError):
            context.keep({"slack": answer.json})
    return ActionResult(f"to {channel}: {text[:200]}{sent_as}", answer.json)


def _default_text(context: StepContext) -> str:
    """Return the default text of a message."""
    event = context.event
    subject = subject_of(event)
    pod = "/".join(part for part in (subject.namespace, subject.pod) if part)
    command = text_of(event.fields.get("proc.cmdline"))
    about = context.attempt_state.get("about") or {}
    if about:
        step, until, reason = (_shown(about.get(key)) for key in ("step", "until", "reason"))
        last = f"{step} of {context.playbook} waits until {until}: {reason}. tiercel approve {about.get('run')}"
    else:
        outcome = f": {context.outcome}" if context.outcome else ""
        last = f"{context.playbook}{outcome}. To undo it: tiercel undo {context.run}"
    parts = [_shown(part) for part in (pod or event.hostname, command) if part and part != ABSENT]
    return "\n".join([f"*{_shown(event.rule)}*", *([": ".join(parts)] if parts else []), last])


def _shown(value: object) -> str:
    """Return a value for the default text, escaped."""
    return cut(escape(str(value)), _MAX_SHOWN)


def _message(text: str, blocks: list[Any] | None, note: str) -> dict[str, Any]:
    """Return the JSON of a message. note: text to add, escaped.

    A message without blocks is also sent as verbatim sections. Slack creates links from URLs in ``text``, and
    incoming webhooks ignore ``parse: none``. Only a verbatim text object prevents that.
    """
    full_text = f"{cut(text, TEXT - len(note) - 1)}\n{note}" if note else text
    if blocks and note:
        last = {"type": "context", "elements": [{"type": "plain_text", "text": note}]}
        sent = [*blocks[: BLOCKS - 1], last]
    else:
        sent = blocks or [_section(piece) for piece in _pieces(full_text)]
    no_links = {"parse": "none", "link_names": False, "unfurl_links": False, "unfurl_media": False}
    return {"text": full_text, "blocks": sent, **no_links}


def _buttons(context: StepContext) -> dict[str, Any]:
    """Return the block with the buttons for the hold that this message is about. Raises RefusedError."""
    hold = context.attempt_state.get("about")
    if not hold:
        raise RefusedError("`buttons` is only for the steps of onHeld in the Guardrails")
    value = encode_json({"run": hold["run"], "notice": context.run}).decode()
    return {
        "type": "actions",
        "block_id": BUTTONS,
        "elements": [
            {
                "type": "button",
                "action_id": f"{BUTTONS}-{verdict}",
                "text": {"type": "plain_text", "text": verdict.capitalize()},
                "style": style,
                "value": value,
            }
            for verdict, style in (("approve", "primary"), ("deny", "danger"))
        ],
    }


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def _pieces(text: str) -> Iterator[str]:
    """Split the text into pieces that fit into sections. Entities and links stay complete if they fit."""
    while text:
        piece = text if len(text) <= SECTION else _OPEN.sub("", text[:SECTION]) or text[:SECTION]
        yield piece
        text = text[len(piece) :]


def _post(
    http: HttpClient,
    message: dict[str, Any],
    webhook: SecretName | None,
    token: SecretName | None,
) -> tuple[Answer, str]:
    """Send a message. If Slack refuses its blocks, send only the text. Return the response and a note."""
    try:
        return http.post_slack_message(message, webhook, token), ""
    except BlocksRefusedError as error:
        plain = {key: value for key, value in message.items() if key != "blocks"}
        return http.post_slack_message(plain, webhook, token), f" (as text: {error})"
