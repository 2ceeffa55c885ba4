"""tiercel rbac."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from engine.cli.playbook_arguments import load_valid, values_option
from engine.language import value_checks
from engine.render.text import print_document

if TYPE_CHECKING:
    from pathlib import Path


@click.command("rbac")
@click.argument("playbooks", nargs=-1)
@click.option("--name", default="tiercel", show_default=True, help="Name of the role.")
@click.option(
    "--namespaced",
    is_flag=True,
    help="Print a Role for namespaced resources, to bind in each namespace that the playbooks act in, and a"
    " ClusterRole for the rest: namespaces, nodes, and listing NetworkPolicies, which the engine needs to find"
    " policies whose ttl has ended after a lost journal.",
)
@click.option(
    "--service-account",
    metavar="NAMESPACE:NAME",
    default="tiercel:tiercel",
    show_default=True,
    help="The engine's ServiceAccount. It may impersonate the accounts of runAs, which are in its namespace.",
)
@click.option(
    "--kubernetes-operators",
    is_flag=True,
    help="Also print the rights that `serve --kubernetes-operators` needs: to create TokenReviews and"
    " SubjectAccessReviews.",
)
@click.option(
    "--argocd",
    is_flag=True,
    help="Print the ignoreDifferences of an Argo CD Application instead, so that selfHeal does not revert what"
    " the playbooks change on objects that Argo CD manages.",
)
@values_option
def command(
    *,
    playbooks: tuple[str, ...],
    name: str,
    namespaced: bool,
    service_account: str,
    kubernetes_operators: bool,
    argocd: bool,
    values: Path | None,
) -> None:
    """Print the minimal RBAC role for PLAYBOOKS as YAML (default: playbooks/).

    For each ServiceAccount that a playbook names under runAs, the output also has a role and its binding, and
    the right of the engine to impersonate the account.

    \b
    Examples:
      tiercel rbac playbooks/ | kubectl apply -f -
      tiercel rbac --argocd playbooks/

    \b
    Next:
      kubectl create clusterrolebinding tiercel --clusterrole tiercel --serviceaccount tiercel:tiercel
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    import yaml  # noqa: PLC0415 - --help must be fast

    from engine.actions.rbac import (  # noqa: PLC0415 - --help must be fast
        ACCESS_REVIEWS,
        account_roles,
        ignore_differences,
        rights_by_account,
        roles,
    )

    if argocd:
        ignored = ignore_differences(load_valid(playbooks, values).playbooks)
        print_document(yaml.safe_dump({"ignoreDifferences": ignored}, sort_keys=False).rstrip())
        return
    namespace, _, account = service_account.partition(":")
    if value_checks.service_account(namespace) or value_checks.service_account(account):
        raise click.BadParameter(
            f"`{service_account[:80]}` is not NAMESPACE:NAME", param_hint="--service-account"
        )
    accounts = rights_by_account(load_valid(playbooks, values).playbooks)
    own = accounts.pop("") | (ACCESS_REVIEWS if kubernetes_operators else frozenset())
    found = roles(own, name, namespaced=namespaced)
    found += account_roles(accounts, name, (namespace, account), namespaced=namespaced)
    print_document(yaml.safe_dump_all(found, sort_keys=False, default_flow_style=None).rstrip())
