"""tiercel plan."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.artifacts.url import store_list
from engine.cli.exit_codes import FINDINGS, USAGE, fail
from engine.cli.input_files import open_input, read_events_input
from engine.cli.playbook_arguments import load_valid, values_option
from engine.cluster.objects import MAX_BYTES, InvalidObjectError, read_objects
from engine.cluster.simulated import StaticCluster
from engine.execution.guardrails import GuardrailChecker
from engine.model.errors import SettingsError
from engine.model.event_formats import read_events
from engine.model.own_identity import OwnIdentity
from engine.planning.matcher import PlaybookIndex
from engine.planning.planner import PlanningMemory
from engine.preview.preview import PreviewContext, preview
from engine.render.plan_json import line_json
from engine.render.plan_text import Totals, event_lines
from engine.render.progress import with_progress
from engine.render.text import print_document, print_line
from engine.runtime.settings import host_list

if TYPE_CHECKING:
    from engine.cluster.api import Cluster, ClusterReader
    from engine.model.event_formats import ReadEvent


@click.command("plan")
@click.argument("arguments", nargs=-1, required=True, metavar="[PLAYBOOKS]... EVENTS")
@values_option
@click.option(
    "--server", is_flag=True, help="Read the cluster, and send each call with dryRun=All."
)
@click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False),
    help="With --server: the kubeconfig of the cluster.",
)
@click.option("--context", metavar="NAME", help="With --server: the context in the kubeconfig.")
@click.option(
    "--cluster",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="File with the objects that exist, as YAML or JSON (kubectl get -A -o json ...).",
)
@click.option(
    "--http-hosts",
    metavar="HOSTS",
    help="Hosts that http.request can call, separated by commas. Default: all.",
)
@click.option(
    "--artifact-stores",
    metavar="URLS",
    help="Stores that steps can store artifacts in, separated by commas. Default: all.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
def command(
    *,
    arguments: tuple[str, ...],
    values: Path | None,
    http_hosts: str | None,
    artifact_stores: str | None,
    output: str,
    **cluster_options: Any,
) -> None:
    """Show what PLAYBOOKS (default: playbooks/) would do for EVENTS, without changes.

    EVENTS is a file with one event, a JSON array, or one event per line; - is stdin. Without --cluster and
    --server, the command assumes that the pod in the event exists. With --server, the exit code is 1 if a
    step fails.

    \b
    Examples:
      tiercel plan playbooks/ event.json
      tiercel plan playbooks/ event.json --server
      kubectl logs -n falco ds/falco | grep '^{' | tiercel plan playbooks/ -

    Next: tiercel explain playbooks/ EVENTS, tiercel test playbooks/
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    *paths, events = arguments
    selects_cluster = cluster_options["kubeconfig"] or cluster_options["context"]
    if selects_cluster and not cluster_options["server"]:
        raise click.UsageError("--kubeconfig and --context need --server, which reads the cluster.")
    try:
        hosts, stores = host_list(http_hosts), store_list(artifact_stores)
    except SettingsError as error:
        fail(f"tiercel plan: {error}", USAGE)
    found = load_valid(paths, values)
    playbooks = PlaybookIndex(found.playbooks, found.silences, found.revision)
    preview_context = replace(_preview_context(**cluster_options), hosts=hosts, stores=stores)
    memory, totals = PlanningMemory(), Totals()
    checker = GuardrailChecker(found.guardrails, OwnIdentity.from_environment(os.environ))
    invalid = failed = 0
    for result in with_progress([*read_events(read_events_input(events, "plan"))], "Planning"):
        if result.event is None:
            invalid += 1
            _print_error(events, result, output)
            continue
        runs = preview(result.event, playbooks, memory, checker, preview_context)
        totals.add(runs)
        failed += any(step.state == "failed" for run in runs for step in run.results)
        if output == "json":
            print_document(json.dumps(line_json(result.event, runs)))
        else:
            for line in event_lines(result.event, runs, len(playbooks.all)):
                print_line(line)
    if output == "text":
        print_line(totals.line())
    if invalid or (cluster_options["server"] and failed):
        sys.exit(FINDINGS)


def _preview_context(
    cluster: Path | None,
    *,
    server: bool,
    kubeconfig: str | None,
    context: str | None,
) -> PreviewContext:
    if server:
        from engine.cluster.client import connect  # noqa: PLC0415 - 250 ms that only --server needs
        from engine.cluster.impersonation import as_account  # noqa: PLC0415 - the same
        from engine.cluster.kubeconfig import (  # noqa: PLC0415 - only --server needs it
            ConnectionSettingsError,
            default_kubeconfig,
        )

        try:
            live = connect(kubeconfig or default_kubeconfig(), context)
        except ConnectionSettingsError as error:
            fail(f"--server: {error}", USAGE, "Select a cluster: --kubeconfig FILE --context NAME")
        own = OwnIdentity.from_environment(os.environ)

        def as_(account: str) -> tuple[ClusterReader, Cluster]:
            user = as_account(live, own.namespace, account)
            return user, as_account(live.with_dry_run(), own.namespace, account)

        return PreviewContext(live, live.with_dry_run(), accounts=as_)
    if cluster is None:
        return PreviewContext()
    try:
        with open_input(str(cluster), "tiercel plan --cluster FILE") as file:
            # one byte more than the limit shows that the file is too large
            objects = read_objects(file.read(MAX_BYTES + 1))
        return PreviewContext(StaticCluster(objects))
    except InvalidObjectError as error:
        fail(f"{cluster}{f':{error.line}' if error.line else ''}: {error}", USAGE)


def _print_error(events: str, result: ReadEvent, output: str) -> None:
    """Report a line that is not an event."""
    print_line(f"{events}:{result.line}: {result.error}", err=True)
    if output == "json":
        line: dict[str, object] = {
            "event": None,
            "error": str(result.error),
            "line": result.line,
            "runs": [],
        }
        print_document(json.dumps(line))
