"""tiercel completion, and the completion of the names of playbooks, actions and runs."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_ITEMS = 200
"""Names that are offered at the same time."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, *, shell: str) -> None:
    """Print the completion script of tiercel for a SHELL.

    The script completes commands, options, and the names of playbooks, actions and runs.

    \b
    Examples:
      source <(tiercel completion bash)
      source <(tiercel completion zsh)
      tiercel completion fish | source

    Next: tiercel show <TAB>
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    found = get_completion_class(shell)
    if found is not None:
        # not found.source(): for bash it starts bash to check its version, which the script does not need
        completion = found(ctx.find_root().command, {}, "tiercel", "_TIERCEL_COMPLETE")
        click.echo(completion.source_template % completion.source_vars())


def playbook_names(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the names of the playbooks in the folders on the command line, by default in ``playbooks/``."""
    from engine.actions.registry import load_actions  # noqa: PLC0415 - only completion needs it
    from engine.cli.playbook_arguments import DEFAULT_FOLDER  # noqa: PLC0415 - as above
    from engine.language.folder import FolderError, read_files  # noqa: PLC0415 - as above
    from engine.language.loader import Loader  # noqa: PLC0415 - as above

    del parameter
    # after an option without its value, click leaves the arguments in ctx.args
    paths = [*(ctx.params.get("arguments") or ()), *ctx.args]
    folders = [path for path in paths if Path(path).is_dir()]
    try:
        found = Loader(load_actions()).load(read_files(folders or [DEFAULT_FOLDER]))
    except FolderError:
        return []
    return _items((playbook.name for playbook in found.playbooks), incomplete)


def action_names(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the names of the actions."""
    from engine.actions.registry import load_actions  # noqa: PLC0415 - only completion needs it

    del ctx, parameter
    return _items(load_actions(), incomplete)


def run_ids(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the IDs of the engine's newest runs, with playbook and state; none without an engine."""
    from engine.cli.admin_client import DEFAULT_SERVER, get  # noqa: PLC0415 - only completion needs it

    del parameter
    server, token = ctx.params.get("server") or DEFAULT_SERVER, ctx.params.get("token_file")
    try:
        # a shell would print an error in the middle of the command line
        with contextlib.redirect_stderr(io.StringIO()):
            runs = get(server, token, f"/runs?limit={MAX_ITEMS}")["runs"]
    except SystemExit:
        return []
    return [
        CompletionItem(run["run"][:12], help=f"{run['playbook']} {run['state']}")
        for run in runs
        if run["run"].startswith(incomplete)
    ]


def _items(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    found = sorted(name for name in set(names) if name.startswith(incomplete))
    return [CompletionItem(name) for name in found[:MAX_ITEMS]]
