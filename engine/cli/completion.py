"""tiercel completion."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
MOST = 200
"""Names that are offered at once."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(*, shell: str) -> None:
    """Print the completion of tiercel for a SHELL.

    It completes commands, options, and the names of playbooks, actions and runs.

    \b
      source <(tiercel completion bash)
      source <(tiercel completion zsh)
      tiercel completion fish | source
    """  # noqa: D301 - \b is click's mark for text to be left alone
    from engine.cli.command_group import cli  # noqa: PLC0415 - it imports this module

    found = get_completion_class(shell)
    if (
        found is not None
    ):  # bash's own check starts bash, to see its version: the source does not depend on it
        completion = found(cli, {}, "tiercel", "_TIERCEL_COMPLETE")
        click.echo(completion.source_template % completion.source_vars())


def playbook_names(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The names of the playbooks in ``playbooks/``."""
    from engine.actions.registry import load_actions  # noqa: PLC0415 - the same
    from engine.cli.playbook_arguments import DEFAULT  # noqa: PLC0415 - only completion needs it
    from engine.language.folder import FolderError, read_files  # noqa: PLC0415 - the same
    from engine.language.loader import Loader  # noqa: PLC0415 - the same

    del ctx, parameter
    try:
        found = Loader(load_actions()).load(read_files([DEFAULT]))
    except FolderError:
        return []
    return _beginning((one.name for one in found.playbooks), incomplete)


def action_names(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The names of the actions."""
    from engine.actions.registry import load_actions  # noqa: PLC0415 - only completion needs it

    del ctx, parameter
    return _beginning(load_actions(), incomplete)


def run_ids(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The ids of the newest runs of the engine, each with its playbook and state; none without an engine."""
    from engine.cli.admin_client import (  # noqa: PLC0415 - only completion needs it
        DEFAULT_SERVER,
        get,
    )

    del parameter
    server, token = ctx.params.get("server") or DEFAULT_SERVER, ctx.params.get("token_file")
    try:
        with contextlib.redirect_stderr(
            io.StringIO()
        ):  # a shell shows it in the middle of the line
            runs = get(server, token, f"/runs?limit={MOST}")["runs"]
    except SystemExit:
        return []
    return [
        CompletionItem(run["run"][:12], help=f"{run['playbook']} {run['state']}")
        for run in runs
        if run["run"].startswith(incomplete)
    ]


def _beginning(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    found = sorted(name for name in set(names) if name.startswith(incomplete))
    return [CompletionItem(name) for name in found[:MOST]]
