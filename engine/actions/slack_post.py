"""slack.post: tell people."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from engine.actions.action import Doing, Done, action
from engine.actions.parameter import Secret, Text
from engine.actions.structure import Json
from engine.ports.http import Outside, SecretName

if TYPE_CHECKING:
    from collections.abc import Mapping

_CHANNEL = re.compile(r"[#@]?[\w-]{1,80}")


def channel_fault(text: str) -> str | None:
    """What is wrong with a channel; None if nothing is."""
    return None if _CHANNEL.fullmatch(text) else "is no channel of Slack's"


def escape(text: str) -> str:
    """Text as Slack wants it: what an event says can make no link and no mention."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


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
    outside: Outside,
    doing: Doing,
    *,
    text: Annotated[str, Text(escape=escape)],
    webhook: Annotated[SecretName | None, Secret()] = None,
    token: Annotated[SecretName | None, Secret()] = None,
    channel: Annotated[str | None, Text(channel_fault)] = None,
    blocks: Annotated[list[Any] | None, Json(escape)] = None,
    thread: Literal["run", "none"] = "none",
) -> Done:
    """Post a message to Slack. What the event says is escaped, so it makes no links and mentions nobody.

    text: the message; also what notifications show where there are blocks.
    webhook: the secret that holds an incoming webhook's URL.
    token: the secret that holds a bot token (chat:write); needs a channel.
    channel: the channel's id or name, with a token.
    blocks: Block Kit blocks.
    thread: with a token, run puts a run's messages into one thread.
    """
    if doing.also:
        text = f"{text}\n{escape(doing.also)}"
    message: dict[str, Any] = {"text": text}
    if blocks:
        also = {"type": "context", "elements": [{"type": "plain_text", "text": doing.also[:2000]}]}
        message["blocks"] = [*blocks, also] if doing.also else blocks
    if webhook is not None:
        outside.slack(message, webhook, None)
        return Done(f"to {webhook.name}: {text[:200]}")
    message["channel"] = channel
    first = doing.kept.get("slack")
    if thread == "run" and first:
        message |= {"channel": first["channel"], "thread_ts": first["ts"]}
    answer = outside.slack(message, None, token)
    if thread == "run" and not first and answer.json:
        doing.keep({"slack": answer.json})
    return Done(f"to {channel}: {text[:200]}", answer.json)
