"""The group of all subcommands. Each module is imported only when its command is used."""

from __future__ import annotations

import gc
import importlib
import keyword
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import click

_COMMANDS = {
    "check": "Validate playbooks and report all mistakes.",
    "plan": "Show what playbooks would do for events, without changes.",
    "explain": "Explain why playbooks match or do not match events.",
    "test": "Run the PlaybookTests next to playbooks.",
    "replay": "Show what playbooks would have done for recorded events.",
    "serve": "Run the engine.",
    "status": "Show what a running engine uses, or wait until it uses a set of playbooks.",
    "history": "List the runs of a running engine, newest first.",
    "show": "Show one run in full, or the run that created an object.",
    "approve": "Approve a held run.",
    "deny": "Deny a held run.",
    "retry": "Retry a finished run from the first failed step.",
    "undo": "Undo the changes of a run.",
    "pause": "Stop acting, for all playbooks or for one.",
    "resume": "End a pause.",
    "backup": "Copy the journal while the engine runs.",
    "journal": "Copy a journal from a file to PostgreSQL or back, and migrate its tables.",
    "actions": "List the actions, their parameters and required rights.",
    "rbac": "Print the minimal RBAC role for playbooks.",
    "schema": "Print the JSON Schema of playbooks, for editors.",
    "import": "Convert Falco Talon rules into playbooks.",
    "completion": "Print shell completion for bash, zsh or fish.",
    "digest": "Print the digest of a set of playbooks, as in /status.",
}


class _Commands(click.Group):
    """A group that imports the module of a command only when it is used, so that --help is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names, in the order of typical use."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, or None."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module_name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command: click.Command = _import(f"engine.cli.{module_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of the first argument. For an unknown one, suggest the most similar name."""
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            from engine.cli.exit_codes import did_you_mean  # noqa: PLC0415 - --help must be fast

            raise click.UsageError(
                f"There is no command `{name[:80]}`.{did_you_mean(name, _COMMANDS)}", ctx
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand. Report an unexpected error in one sentence, with exit code 2."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:  # noqa: BLE001 - a traceback does not help a user
            from engine.actions.plugins import PluginError  # noqa: PLC0415 - --help must be fast
            from engine.cli.exit_codes import USAGE, fail  # noqa: PLC0415 - the same

            if isinstance(error, PluginError):
                fail(f"tiercel {ctx.invoked_subcommand}: {error}", USAGE)
            fail(_internal_error(ctx.invoked_subcommand or "", error), USAGE)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _import(name: str) -> Any:
    """Import a module for the rest of the process: later garbage collections do not look at what it creates.

    Without this, they take 7 % of the CPU time of ``tiercel check``.
    """
    if name not in sys.modules:
        gc.disable()
        try:
            importlib.import_module(name)
            gc.freeze()
        finally:
            gc.enable()
    return sys.modules[name]


def _internal_error(command: str, error: Exception) -> str:
    """Return one line that describes an unexpected error and its location in our code."""
    cause = error.__cause__ or error
    frames = traceback.extract_tb(cause.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}engine{os.sep}" in frame.filename]
    place = f" ({Path(ours[-1].filename).name}:{ours[-1].lineno})" if ours else ""
    what = f"{type(cause).__name__}: {cause}"[:300]
    return f"tiercel {command}: internal error: {what}{place}. Please report it with its input."


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tiercel", prog_name="tiercel")
def cli() -> None:
    """Tiercel reacts to Falco events in Kubernetes as your playbooks describe.

    \b
    First steps:
      tiercel check playbooks/               validate playbooks
      tiercel plan playbooks/ event.json     see what they would do for an event
      tiercel serve --dry-run                run the engine without changes

    Exit codes: 0 success, 1 findings, 2 usage or internal error, 3 warnings with --strict.
    Help for a command: tiercel COMMAND --help
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line. The entry point of the console script."""
    return cli(arguments, prog_name="tiercel")
