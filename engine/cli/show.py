"""tiercel show."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from engine.cli.admin_client import AdminError, fetch, get, server_options
from engine.cli.completion import run_ids
from engine.cli.exit_codes import FINDINGS, USAGE, fail
from engine.cluster.kind_names import known_kind
from engine.model.errors import PermanentError, TemporaryError
from engine.preview.git_repository import Repository, RevisionError
from engine.render.history_text import story_lines
from engine.render.provenance import (
    commit_lines,
    is_managed,
    judge,
    marks_json,
    note_lines,
    object_lines,
)
from engine.render.text import print_document, print_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.model.calls import Kind, Object

_KIND = re.compile(r"([a-z][a-z0-9]{0,62})(?:\.([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?))?")
"""A kind as kubectl takes it: its name, and its API group if another kind has the same name."""
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_IN_A_CLONE = "run this command in a clone of the playbooks"


@click.command("show")
@click.argument("run", metavar="RUN|KIND/NAME", shell_complete=run_ids)
@click.option(
    "-n", "--namespace", metavar="NAME", default="default", help="With KIND/NAME: the namespace."
)
@click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False),
    help="With KIND/NAME: the kubeconfig of the cluster. Default: as kubectl.",
)
@click.option("--context", metavar="NAME", help="With KIND/NAME: the context in the kubeconfig.")
@click.option(
    "--copies",
    is_flag=True,
    help="Print the objects that the RUN deleted, as YAML for kubectl apply.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text")
@server_options
def command(
    *,
    run: str,
    namespace: str,
    kubeconfig: str | None,
    context: str | None,
    copies: bool,
    output: str,
    server: str,
    token_file: Path | None,
) -> None:
    """Show a RUN as a story: the event, each step, the calls that it sent, and their results.

    RUN is the ID of the run, or its first 6 or more digits, as `tiercel history` prints them. KIND/NAME is an
    object of the cluster that Tiercel created, with a kind as in kubectl: networkpolicy/NAME, event/NAME,
    configmap/NAME, or with the API group networkpolicy.projectcalico.org/NAME. The output begins with what the
    object says about its run and its playbook.

    In a Git clone of the playbooks, the output also has the commit that wrote the file of the playbook, and
    its author.

    \b
    Examples:
      tiercel history --since 1h             find the run
      tiercel show 4f1c2a9b
      tiercel show 4f1c2a9b -o json
      tiercel show 4f1c2a9b --copies | kubectl apply -f -
      tiercel show networkpolicy/tiercel-5be01f23c4 -n demo

    Next: tiercel retry RUN, tiercel undo RUN
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    if copies:
        _print_copies(run, output, server, token_file)
        return
    if "/" in run:
        word, group, name = _parse_object(run, namespace)
        kind, item = _read_object((word, group, name), namespace, kubeconfig, context)
        _show_object(kind, item, output, server, token_file)
        return
    found = get(server, token_file, f"/runs/{quote(run, safe='')}")
    commit, notes = _find_commit(found)
    if output == "json":
        print_document(json.dumps({**found, "commit": commit}, indent=1))
        return
    for line in story_lines(found, [*commit_lines(commit), *note_lines(notes)]):
        print_line(line)


def _print_copies(run: str, output: str, server: str, token_file: Path | None) -> None:
    """Print the objects that a run deleted. Exits with code 1 if there are none."""
    import yaml  # noqa: PLC0415 - only copies need it

    if "/" in run:
        raise click.UsageError("--copies needs the ID of a run.")
    copies = get(server, token_file, f"/runs/{quote(run, safe='')}")["copies"]
    if not copies:
        fail("the run keeps no copies of deleted objects", FINDINGS, f"tiercel show {run}")
    if output == "json":
        print_document(json.dumps(copies, indent=1))
    else:
        print_document(yaml.safe_dump_all(copies, sort_keys=False).rstrip())


def _parse_object(text: str, namespace: str) -> tuple[str, str, str]:
    """Return the parts of ``KIND/NAME`` or ``KIND.GROUP/NAME``: kind, group or "", and name.

    Exits with code 2 if it is not valid.
    """
    word, _, name = text.partition("/")
    found = _KIND.fullmatch(word.lower())
    if found is None or (not found[2] and known_kind(found[1], "") is None):
        what = f"`{word[:40]}` is not a kind of object that this command knows"
        fail(what, USAGE, "name its API group: tiercel show RESOURCE.GROUP/NAME -n NAMESPACE")
    if not _OBJECT_NAME.fullmatch(name) or not _NAMESPACE.fullmatch(namespace):
        what = f"`{namespace[:63]}/{name[:253]}` is not the namespace and name of an object"
        fail(what, USAGE, f"kubectl get {found[1]} -A -l app.kubernetes.io/managed-by=tiercel")
    return found[1], found[2] or "", name


def _read_object(
    place: tuple[str, str, str], namespace: str, kubeconfig: str | None, context: str | None
) -> tuple[Kind, Object]:
    """Return the kind and the object. Exits with code 2 without a cluster, 1 without an object of Tiercel.

    place: kind, group and name, as the user names them.
    """
    from engine.cluster.client import connect  # noqa: PLC0415 - 250 ms that only objects need
    from engine.cluster.kubeconfig import (  # noqa: PLC0415 - only objects need it
        ConnectionSettingsError,
        default_kubeconfig,
    )

    word, group, name = place
    shown = f"{word}.{group}" if group else word
    about, item = f"{shown} {name}", None
    which = f"kubectl get {shown} -A -l app.kubernetes.io/managed-by=tiercel"
    try:
        cluster = connect(kubeconfig or default_kubeconfig(), context)
        kind = known_kind(word, group) or cluster.find_kind(word, group)
        if kind is not None:
            about = f"{kind.kind} {f'{namespace}/' if kind.namespaced else ''}{name}"
            item = cluster.get(kind, name, namespace if kind.namespaced else None)
    except ConnectionSettingsError as error:
        fail(str(error), USAGE, "Select a cluster: --kubeconfig FILE --context NAME")
    except (TemporaryError, PermanentError) as error:
        fail(f"{about}: {error}", USAGE)
    if kind is None:
        fail(f"the API server does not serve {shown}", FINDINGS, "kubectl api-resources")
    if item is None:
        fail(f"{about} does not exist", FINDINGS, which)
    if not is_managed(item):
        what = f"{about} was not created by Tiercel: it does not have the label"
        fail(f"{what} app.kubernetes.io/managed-by=tiercel", FINDINGS, which)
    return kind, item


def _show_object(
    kind: Kind, item: Object, output: str, server: str, token_file: Path | None
) -> None:
    """Print the provenance of an object. Exits with code 1 if its marks contradict the journal."""
    marks = marks_json(kind, item)
    run, notes = _find_run(marks, server, token_file)
    is_its_run, contradicts = True, False
    if run is not None:
        is_its_run, more, contradicts = judge(run, kind, marks)
        notes += more
    commit = None
    if is_its_run:
        commit, more = _find_commit(run or marks)
        notes += more
    else:  # forged annotations must not name the author of a file
        run = None
    shown = {"object": marks, "run": run, "commit": commit, "notes": notes}
    if output == "json":
        print_document(json.dumps(shown, indent=1))
    else:
        for line in object_lines(shown):
            print_line(line)
        if run is not None:
            print_line()
            for line in story_lines(run):
                print_line(line)
    if contradicts:
        raise SystemExit(FINDINGS)


def _find_run(
    marks: Mapping[str, Any], server: str, token_file: Path | None
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return the run that an object names, or None with the reason."""
    if not marks["run"]:
        return None, ["The object does not name its run."]
    try:
        return fetch(server, token_file, f"/runs/{marks['run']}"), []
    except AdminError as error:
        why = f"The engine cannot confirm the run: {error}."
        return None, [why, "Only the annotations of the object name the run and the file."]


def _find_commit(known: Mapping[str, Any]) -> tuple[dict[str, str] | None, list[str]]:
    """Return the commit that wrote the file of a playbook, or None, and notes about what is not known.

    known: the blob id of the file, and the revision that was deployed.
    """
    blob, revision = known["blob"], known.get("revision")
    if not blob:
        return None, ["Commit not known: the blob id of the playbook's file is not known."]
    try:
        repository = Repository(Path.cwd())
        start = repository.find_commit(revision) if revision else None
        commit = repository.commit_of_blob(blob, start)
        notes = []
        if revision and start is None:
            notes = [f"This clone does not contain the revision {revision}: git fetch"]
        elif start and commit is None:
            notes = [f"The history of {revision} does not contain the file with this content."]
            commit = repository.commit_of_blob(blob)
    except RevisionError as error:
        return None, [f"Commit not known: {error}; {_IN_A_CLONE}"]
    if commit is None:
        return None, [*notes, "Commit not known: no branch or tag of this clone contains the file."]
    return asdict(commit), notes
