"""tiercel actions."""

from __future__ import annotations

import click

from engine.actions.registry import load_actions
from engine.cli.completion import action_names
from engine.cli.exit_codes import USAGE, did_you_mean, fail
from engine.render.reference import action_lines
from engine.render.text import print_line


@click.command("actions")
@click.argument("name", required=False, shell_complete=action_names)
def command(name: str | None) -> None:
    """List the actions, or show the action NAME with its parameters, required rights and an example.

    \b
    Examples:
      tiercel actions
      tiercel actions pod.isolate

    Next: tiercel check playbooks/
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    actions = load_actions()
    if name is None:
        width = max(map(len, actions))
        for action in sorted(actions.values(), key=lambda action: action.name):
            print_line(f"{action.name:<{width}}  {action.effect:<8}  {action.doc.splitlines()[0]}")
        print_line()
        print_line("tiercel actions NAME shows the parameters of an action.")
    elif name not in actions:
        fail(f"There is no action `{name}`.{did_you_mean(name, actions)}", USAGE, "tiercel actions")
    else:
        for line in action_lines(actions[name]):
            print_line(line)
