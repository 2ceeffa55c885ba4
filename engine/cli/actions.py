"""tiercel actions."""

from __future__ import annotations

import click

from engine.actions.registry import load_actions
from engine.cli.completion import action_names
from engine.cli.playbook_arguments import fail
from engine.language.findings import nearest
from engine.render.reference import action_lines
from engine.render.text import say


@click.command("actions")
@click.argument("name", required=False, shell_complete=action_names)
def command(name: str | None) -> None:
    """List the actions, or show the one of that NAME: its parameters, its rights, an example."""
    actions = load_actions()
    if name is None:
        width = max(map(len, actions))
        for action in sorted(actions.values(), key=lambda action: action.name):
            say(f"{action.name:<{width}}  {action.effect:<8}  {action.doc.splitlines()[0]}")
        say()
        say("tiercel actions NAME shows one whole.")
    elif name not in actions:
        near = nearest(name, actions)
        fail(f"There is no action `{name}`." + (f" Did you mean `{near}`?" if near else ""), 2)
    else:
        for line in action_lines(actions[name]):
            say(line)
