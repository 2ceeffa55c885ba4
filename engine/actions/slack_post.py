"""slack.post: tell people."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.actions.composite_parameters import Json
from engine.actions.parameters import Secret, Text
from engine.actions.registry import ActionResult, StepContext, action
from engine.language.template import Template
from engine.model.calls import SecretName
from engine.outbound.api import BlocksRefusedError, HttpClient

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from engine.language.findings import Findings
    from engine.language.template import TemplateContext
    from engine.language.yaml_source import Path
    from engine.model.event import Event
    from engine.outbound.api import Answer

_CHANNEL = re.compile(r"[#@]?[\w-]{1,80}")
_OPEN = re.compile(r"(?:<[^<>]*|&(?:a(?:mp?)?|lt?|gt?)?)\Z")
"""An entity or a link of the author's that has begun at the end of a text and has not ended."""
TEXT, SECTION, BLOCKS = 40_000, 3000, 50
"""Slack's limits: characters of a message, characters of a section, blocks of a message."""
_OBJECT = 3000
"""Characters of a text object that has no lower limit of its own."""
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
"""Characters of a text: type of the block or element and key -> limit (docs.slack.dev, Block Kit reference)."""


def channel_fault(text: str) -> str | None:
    """What is wrong with a channel; None if nothing is."""
    return None if _CHANNEL.fullmatch(text) else "is no channel of Slack's"


def escape(text: str) -> str:
    """Text as Slack wants it: what an event says can make no link and no mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def cut(text: str, most: int) -> str:
    """At most so many characters of an escaped text, no entity or link cut in two; a cut text ends in ``…``."""
    if len(text) <= most:
        return text
    return _OPEN.sub("", text[: max(most - 1, 0)]) + "…"[:most]


def fitted(template: Template, event: Event, context: TemplateContext, most: int) -> str:
    """The text of a template in at most so many characters; the longest values of the event are cut."""
    said: list[str] = []

    def note(text: str) -> str:
        said.append(escape(text))
        return ""

    room = most - len(template.render(event, context, note))
    share = _share([len(text) for text in said], room)
    values = iter(said)
    return template.render(event, context, lambda _: cut(next(values), share))


def _share(lengths: list[int], room: int) -> int:
    """The most characters that each of these texts may have, so that together they fit into ``room``."""
    left = max(room, 0)
    for n, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - n)
        if length > share:
            return share
        left -= length
    return max(lengths, default=0)


@dataclass(frozen=True, slots=True)
class Message:
    """The text of a message, within Slack's limit."""

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """A Template."""
        template = Text(escape=escape).compile(data, path, findings, steps)
        _check_length(template, TEXT, path, findings)
        return template

    def render(self, value: Template, event: Event, context: TemplateContext) -> str:
        """The text."""
        return fitted(value, event, context, TEXT)

    def schema(self) -> dict[str, Any]:
        """Any string."""
        return Text().schema()


@dataclass(frozen=True, slots=True)
class Blocks:
    """Block Kit blocks, each text within Slack's limit.

    A mrkdwn text with fields of the event is sent with ``verbatim: true``: Slack then makes no links of URLs and
    names in it. In a ``markdown`` block an event could write links, so its text takes no fields.
    """

    def compile(self, data: Any, path: Path, findings: Findings, steps: tuple[str, ...]) -> Any:
        """The same structure, its strings compiled."""
        if not isinstance(data, list) or not data:
            findings.add(path, "bad-parameter", "`blocks` takes a list with at least one block")
            return None
        if len(data) > BLOCKS:
            what = f"a message of Slack's has at most {BLOCKS} blocks; these are {len(data)}"
            findings.add(path, "bad-parameter", what)
        compiled = Json(escape).compile(data, path, findings, steps)
        for place, template, limit in _texts(compiled, path, _OBJECT):
            _check_length(template, limit, place, findings)
        for n, block in enumerate(compiled):
            if _kind(block) == "markdown" and any(
                t.names for _, t, _ in _texts(block, (), _OBJECT)
            ):
                what = "an event could write links into a markdown block"
                hint = "a section with a mrkdwn text"
                findings.add((*path, n), "bad-parameter", what, hint)
        return compiled

    def render(self, value: Any, event: Event, context: TemplateContext) -> Any:
        """The structure with its strings rendered."""
        return _rendered(value, event, context, _OBJECT)

    def schema(self) -> dict[str, Any]:
        """A list of objects."""
        return {"type": "array", "minItems": 1, "maxItems": BLOCKS, "items": {"type": "object"}}


def _rendered(value: Any, event: Event, context: TemplateContext, limit: int) -> Any:
    """A part of blocks with its strings rendered; limit: characters of a text object here."""
    if isinstance(value, Template):
        return fitted(value, event, context, limit)
    if isinstance(value, list):
        return [_rendered(one, event, context, limit) for one in value]
    if not isinstance(value, dict):
        return value
    made = {
        key: _rendered(one, event, context, _limit(value, key, limit)) for key, one in value.items()
    }
    text = value.get("text")
    if _kind(value) == "mrkdwn" and isinstance(text, Template) and text.names:
        made["verbatim"] = True
    return made


def _texts(value: Any, path: Path, limit: int) -> Iterator[tuple[Path, Template, int]]:
    """The texts of compiled blocks, each with its place and its limit."""
    if isinstance(value, Template):
        yield path, value, limit
    elif isinstance(value, list):
        for n, one in enumerate(value):
            yield from _texts(one, (*path, n), limit)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _texts(one, (*path, key), _limit(value, key, limit))


def _limit(holder: dict[str, Any], key: str, limit: int) -> int:
    """The limit of what is under the key: a text object has that of its place."""
    kind = _kind(holder)
    if kind in ("plain_text", "mrkdwn"):
        return limit
    return _LIMITS.get((kind, key), _OBJECT)


def _kind(value: Any) -> str:
    """The ``type`` of compiled Block Kit; empty without one."""
    found = value.get("type") if isinstance(value, dict) else None
    return found.source if isinstance(found, Template) else ""


def _check_length(template: Template | None, most: int, path: Path, findings: Findings) -> None:
    """Report a text that is too long before an event has said anything."""
    literal = sum(len(part) for part in template.parts if isinstance(part, str)) if template else 0
    if literal > most:
        what = f"Slack takes at most {most:,} characters here; these are {literal:,}"
        findings.add(path, "bad-parameter", what)


def _check(given: Mapping[str, Any]) -> str | None:
    if ("webhook" in given) == ("token" in given) or ("token" in given) != ("channel" in given):
        return "slack.post wants either `webhook`, or `token` and `channel`"
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
def post_to_slack(
    http: HttpClient,
    context: StepContext,
    *,
    text: Annotated[str, Message()],
    webhook: Annotated[SecretName | None, Secret()] = None,
    token: Annotated[SecretName | None, Secret()] = None,
    channel: Annotated[str | None, Text(channel_fault)] = None,
    blocks: Annotated[list[Any] | None, Blocks()] = None,
    thread: Literal["run", "none"] = "none",
) -> ActionResult:
    """Post a message to Slack. What the event says is escaped, so it makes no links and mentions nobody.

    What the event says is cut so that every text stays within Slack's limits (a message 40,000 characters, a
    section 3,000, a field 2,000, a header 150). If Slack refuses the blocks, the message is sent as text.

    text: the message; also what notifications show where there are blocks. Write links as <https://…|words>;
      a plain URL does not become a link.
    webhook: the secret that holds an incoming webhook's URL.
    token: the secret that holds a bot token (chat:write); needs a channel.
    channel: the channel's id or name, with a token.
    blocks: Block Kit blocks, at most 50. A mrkdwn text with fields of the event is sent as verbatim.
    thread: with a token, run puts a run's messages into one thread.
    """
    also = cut(escape(context.note), 2000)
    message = _message(text, blocks, also)
    if webhook is not None:
        _, told = _post(http, message, webhook, None)
        return ActionResult(f"to {webhook.name}: {text[:200]}{told}")
    message["channel"] = channel
    first = context.attempt_state.get("slack")
    if thread == "run" and first:
        message |= {"channel": first["channel"], "thread_ts": first["ts"]}
    answer, told = _post(http, message, None, token)
    if thread == "run" and not first and answer.json:
        context.keep({"slack": answer.json})
    return ActionResult(f"to {channel}: {text[:200]}{told}", answer.json)


def _message(text: str, blocks: list[Any] | None, also: str) -> dict[str, Any]:
    """What is sent. Without blocks of the author, the text is sent as verbatim sections too.

    Slack makes links of the URLs in ``text``, and incoming webhooks ignore ``parse: none``; only in a verbatim
    text object it does not. also: what the message says besides, escaped.
    """
    whole = f"{cut(text, TEXT - len(also) - 1)}\n{also}" if also else text
    if blocks and also:
        note = {"type": "context", "elements": [{"type": "plain_text", "text": also}]}
        sent = [*blocks[: BLOCKS - 1], note]
    else:
        sent = blocks or [_section(piece) for piece in _pieces(whole)]
    quiet = {"parse": "none", "link_names": False, "unfurl_links": False, "unfurl_media": False}
    return {"text": whole, "blocks": sent, **quiet}


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces that fit into sections; an entity or a link stays whole if it fits."""
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
    """Send a message, without its blocks if Slack refuses them; what to tell of that."""
    try:
        return http.post_slack_message(message, webhook, token), ""
    except BlocksRefusedError as error:
        plain = {key: value for key, value in message.items() if key != "blocks"}
        return http.post_slack_message(plain, webhook, token), f" (as text: {error})"
