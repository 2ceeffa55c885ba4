"""tiercel rbac."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.playbook_arguments import load_valid, values_option
from engine.render.text import echo

if TYPE_CHECKING:
    from pathlib import Path


@click.command("rbac")
@click.argument("playbooks", nargs=-1)
@click.option("--name", default="tiercel", show_default=True, help="What the role is called.")
@click.option(
    "--namespaced",
    is_flag=True,
    help="A Role for what is in namespaces, to be bound in each that counts, and a ClusterRole for the rest:"
    " namespaces, nodes, and the list of NetworkPolicies, to find after a lost journal what has to end.",
)
@values_option
def command(
    *, playbooks: tuple[str, ...], name: str, namespaced: bool, values: Path | None
) -> None:
    """Print the least role that PLAYBOOKS need, as YAML (default: playbooks/).

    \b
      tiercel rbac playbooks/ | kubectl apply -f -
      kubectl create clusterrolebinding tiercel --clusterrole tiercel --serviceaccount tiercel:tiercel
    """  # noqa: D301 - \b is click's mark for text to be left alone
    import yaml  # noqa: PLC0415 - --help must be quick

    from engine.actions.rbac import rights, roles  # noqa: PLC0415 - the same

    found = roles(rights(load_valid(playbooks, values).playbooks), name, namespaced=namespaced)
    echo(yaml.safe_dump_all(found, sort_keys=False, default_flow_style=None).rstrip())
