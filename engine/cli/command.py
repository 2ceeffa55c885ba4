"""The command ``tiercel`` and its subcommands, each loaded when it is asked for."""

from __future__ import annotations

import importlib
import keyword
from typing import Any

import click

_COMMANDS = {
    "check": "Validate playbooks; tell every mistake at its place.",
    "plan": "Show what playbooks would do about events, changing nothing.",
    "explain": "Say why playbooks do or do not want events.",
    "test": "Run the PlaybookTests that stand beside playbooks.",
    "replay": "Show what playbooks would have done on recorded events.",
    "serve": "Run the engine: take events, act as the playbooks say.",
    "history": "The runs of a running engine, the newest first.",
    "show": "One run as a story.",
    "approve": "Give a held run leave to go on.",
    "deny": "Refuse it to a held run.",
    "retry": "Try a run that is over again.",
    "undo": "Put back what a run has changed.",
    "pause": "Stop acting: all playbooks, or one.",
    "resume": "Act again.",
    "actions": "The actions, their parameters and the rights that they need.",
    "rbac": "The least role that playbooks need.",
    "schema": "The language's JSON Schema, for editors.",
    "import": "Turn Falco Talon's rules into playbooks.",
    "digest": "The digest of a set of playbooks, as /status shows it.",
}


class _Commands(click.Group):
    """A group whose commands are modules of this package, imported late: --help must be quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which one needs them."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        own = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        module = importlib.import_module(f"engine.cli.{own}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tiercel", prog_name="tiercel")
def cli() -> None:
    """Falco notices that something is wrong in a pod; Tiercel does something about it.

    Write playbooks, `tiercel check` them, see with `tiercel plan` what they would do about an event, and
    `tiercel serve` them. Exit: 0 fine, 1 findings, 2 usage or internal error, 3 warnings with --strict.
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command; the entry point of the console script."""
    return cli(arguments, prog_name="tiercel")
