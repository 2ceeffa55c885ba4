"""The command ``tiercel`` and its subcommands, each loaded when it is asked for."""

from __future__ import annotations

import importlib
import keyword
import os
import traceback
from pathlib import Path
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
    "approve": "Approve a held run, so that it goes on.",
    "deny": "Deny a held run.",
    "retry": "Try a run that is over again.",
    "undo": "Put back what a run has changed.",
    "pause": "Stop acting: all playbooks, or one.",
    "resume": "Act again.",
    "actions": "The actions, their parameters and the rights that they need.",
    "rbac": "The least role that playbooks need.",
    "schema": "The language's JSON Schema, for editors.",
    "import": "Turn Falco Talon's rules into playbooks.",
    "completion": "Shell completion for bash, zsh or fish.",
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant; of one that is not there, the closest name is told."""
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            from engine.language.findings import nearest  # noqa: PLC0415 - --help must be quick

            near = nearest(name, _COMMANDS)
            hint = f" Did you mean `{near}`?" if near else ""
            raise click.UsageError(f"There is no command `{name[:80]}`.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand. An error that the command does not expect is one sentence and exit 2."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 - a traceback does not help a user
            from engine.cli.playbook_arguments import fail  # noqa: PLC0415 - as above

            fail(_sentence(ctx.invoked_subcommand or "", error), 2)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _sentence(command: str, error: Exception) -> str:
    """An unexpected error and its place, in one line."""
    cause = error.__cause__ or error
    frames = traceback.extract_tb(cause.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}engine{os.sep}" in frame.filename]
    place = f" ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""
    what = f"{type(cause).__name__}: {cause}"[:300]
    return f"tiercel {command}: internal error: {what}{place}. Please report it with its input."


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
