"""tiercel serve."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from engine.artifacts.url import store_list
from engine.cli.exit_codes import FINDINGS, USAGE, fail
from engine.intake.redaction import RedactError, Redaction
from engine.language import duration
from engine.language.folder import FolderError
from engine.model.errors import PlaybookError, SettingsError
from engine.model.own_identity import MOUNTED, OwnIdentity
from engine.render.findings import finding_lines
from engine.render.text import print_line
from engine.runtime.settings import (
    NATS,
    POSTGRESQL,
    REDIS,
    SLACK_API,
    Settings,
    address,
    host_list,
    server,
    slack_api,
)
from engine.telemetry.quick_import import import_structlog


class _Lines(click.types.StringParamType):
    """A repeatable option whose environment variable has one value per line.

    By default click splits the variable at spaces, which regular expressions can contain.
    """

    def split_envvar_value(self, rv: str) -> list[str]:
        """Return the lines that are not empty."""
        return [line for line in rv.replace("\r\n", "\n").split("\n") if line]


_FILE = click.Path(dir_okay=False, path_type=Path)
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("json", "text")


@click.command("serve", context_settings={"auto_envvar_prefix": "TIERCEL", "show_default": True})
@click.option(
    "--playbooks",
    type=click.Path(path_type=Path),
    default="playbooks",
    help="Folder with playbooks. Changes take effect immediately.",
)
@click.option(
    "--values",
    type=_FILE,
    help="File with the values for ${…}. It replaces values.yaml of the folder.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:8080",
    help="Address that accepts events, on any path.",
)
@click.option(
    "--admin-listen",
    metavar="HOST:PORT",
    default="127.0.0.1:8081",
    help="Address of the admin port: probes, status, metrics, runs.",
)
@click.option(
    "--journal",
    default="tiercel.db",
    metavar="FILE|URL",
    help="File that stores the runs, on a local disk; or postgresql://USER@HOST/DATABASE, which several replicas"
    " share.",
)
@click.option(
    "--journal-password-file",
    type=_FILE,
    help="File with the password of the database. Read for each connection.",
)
@click.option(
    "--spool",
    type=_FILE,
    help="File on a local disk that keeps the events of HTTP senders while the database is unavailable."
    " Default: such events get 503.",
)
@click.option(
    "--kubeconfig",
    metavar="FILE",
    help="Kubeconfig of the cluster. Default: the cluster of this pod.",
)
@click.option("--context", metavar="NAME", help="Context in the kubeconfig.")
@click.option(
    "--secrets-dir",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with one file for each secret that a playbook names under fromSecret.",
)
@click.option(
    "--token-file",
    type=_FILE,
    help="File with bearer tokens of senders, one per line, at least 16 characters. Also passwords for Basic.",
)
@click.option(
    "--path-secret-file",
    type=_FILE,
    help="File with secrets, one per line, at least 16 characters. The path of the URL in Falco ends with one.",
)
@click.option(
    "--tls-cert",
    type=_FILE,
    help="Certificate chain of the event port (PEM). Reloaded if it changes.",
)
@click.option("--tls-key", type=_FILE, help="Private key of the certificate.")
@click.option(
    "--client-ca", type=_FILE, help="Senders must present a certificate signed by this authority."
)
@click.option(
    "--operators-file",
    type=_FILE,
    help="File with operators of the admin port, one per line: NAME view|operate SHA256-OF-TOKEN."
    " Default: local programs.",
)
@click.option(
    "--kubernetes-operators",
    is_flag=True,
    help="Also accept Kubernetes tokens on the admin port. The API server decides: TokenReview, and"
    " SubjectAccessReview on runs.tiercel.dev with the verb get, approve, deny, undo, retry, pause or resume.",
)
@click.option(
    "--kubernetes-audience",
    metavar="NAME",
    help="Audience that these tokens must have. Default: that of the API server.",
)
@click.option(
    "--slack-app-token-file",
    type=_FILE,
    help="File with a Slack app token (xapp-…). The engine connects to Slack (Socket Mode), and operators with"
    " slack:TEAM/USER in the operators file can press the buttons of slack.post.",
)
@click.option("--slack-api", metavar="URL", default=SLACK_API, help="URL of Slack's Web API.")
@click.option(
    "--insecure-no-auth",
    is_flag=True,
    help="Accept events without credentials from other machines and from web pages too.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=16,
    help="Maximum number of parallel cluster steps.",
)
@click.option(
    "--slow-workers",
    type=click.IntRange(1, 256),
    default=16,
    help="Maximum number of parallel messages and requests.",
)
@click.option(
    "--kube-qps",
    type=click.FloatRange(1, 10_000),
    default=100,
    help="Maximum number of calls per second to the API server.",
)
@click.option(
    "--http-hosts",
    metavar="HOSTS",
    default="",
    show_default="none",
    help="Hosts that http.request can call, separated by commas: HOST, HOST:PORT or *.SUFFIX.",
)
@click.option(
    "--artifact-stores",
    metavar="URLS",
    default="",
    show_default="none",
    help="Where steps can store artifacts, separated by commas: file:///FOLDER, s3://BUCKET/PREFIX, gs://…, az://…",
)
@click.option(
    "--redact",
    multiple=True,
    type=_Lines(),
    metavar="FIELD=REGEX",
    help="Replace what the RE2 expression finds in the field (*: in every field) with *** before it is stored, "
    "shown or sent. Repeatable; the environment variable has one per line.",
)
@click.option("--nats", metavar="URL", help="Also read events from a NATS JetStream on falco.>.")
@click.option("--redis", metavar="URL", help="Also read events from a Redis list (?key=falco).")
@click.option(
    "--follow", type=_FILE, help="Also read events from a file that Falco writes (file_output)."
)
@click.option("--record", type=_FILE, help="Write every event to this file, for tiercel replay.")
@click.option(
    "--retention", metavar="DURATION", default="30d", help="How long to keep finished runs."
)
@click.option(
    "--grace",
    metavar="DURATION",
    default="30s",
    help="How long to wait for running steps after SIGTERM.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Do everything except changes. Without a cluster, pods are assumed to exist.",
)
@click.option(
    "--story/--no-story",
    default=False,
    help="Print each run as text on stderr instead of the audit.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    help="Minimum severity of the log.",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    help="Format of the log. Default: text on a terminal, otherwise json.",
)
def command(*, story: bool, log_level: str, log_format: str | None, **given: Any) -> None:
    """Run the engine: accept events, write matches to the journal, and execute the playbooks.

    Each option has an environment variable, for example TIERCEL_ADMIN_LISTEN for --admin-listen. The audit
    is JSON lines on stdout. Logs are on stderr.

    \b
    Examples:
      tiercel serve --dry-run
      curl -d @event.json http://127.0.0.1:8080/events

    Next: tiercel history
    """  # noqa: D301 - \b is click's mark for text that keeps its line breaks
    import_structlog()
    from engine.cluster.kubeconfig import ConnectionSettingsError  # noqa: PLC0415 - --help must be fast
    from engine.model.errors import JournalError  # noqa: PLC0415 - --help must be fast
    from engine.runtime.engine_process import serve  # noqa: PLC0415 - --help must be fast
    from engine.runtime.worker_channel import (  # noqa: PLC0415 - --help must be fast
        WorkerProcessError,
    )
    from engine.telemetry.logging import configure  # noqa: PLC0415 - --help must be fast

    configure(sys.stderr, log_level, "text" if story else log_format)
    try:
        serve(_settings(given), story=story)
    except (SettingsError, ConnectionSettingsError, JournalError, WorkerProcessError) as error:
        fail(f"tiercel serve: {error}", USAGE)
    except PlaybookError as error:
        for line in finding_lines(error.findings):
            print_line(line, err=True)
        fail(f"Nothing was loaded: tiercel check {given['playbooks']}", FINDINGS)
    except FolderError as error:
        fail(str(error), FINDINGS, f"Nothing was loaded: tiercel check {given['playbooks']}")


def _settings(given: dict[str, Any]) -> Settings:
    """Return the settings of the options. Raises SettingsError if a value is not valid."""
    seconds = {}
    for name in ("grace", "retention"):
        given_seconds = duration.seconds(given[name])
        if given_seconds is None:
            raise SettingsError(f"--{name} {given[name]}: {duration.HINT}")
        seconds[name] = given_seconds
    try:
        redaction = Redaction(given["redact"])
    except RedactError as error:
        raise SettingsError(f"--redact: {error}") from None
    url = _journal_url(given)
    record = given["record"]
    if record and not record.absolute().parent.is_dir():
        raise SettingsError(f"--record: {record.parent} is not a folder")
    return Settings(
        playbooks=given["playbooks"],
        values=given["values"],
        listen=address(given["listen"]),
        admin_listen=address(given["admin_listen"]),
        journal=Path("tiercel.db") if url else Path(given["journal"]),
        journal_url=url,
        journal_password_file=given["journal_password_file"],
        spool=given["spool"],
        kubeconfig=given["kubeconfig"],
        context=given["context"],
        secrets_dir=given["secrets_dir"],
        token_file=given["token_file"],
        path_secret_file=given["path_secret_file"],
        tls_cert=given["tls_cert"],
        tls_key=given["tls_key"],
        client_ca=given["client_ca"],
        operators_file=given["operators_file"],
        kubernetes_operators=given["kubernetes_operators"],
        kubernetes_audience=given["kubernetes_audience"] or None,
        slack_app_token_file=given["slack_app_token_file"],
        slack_api=slack_api(given["slack_api"]),
        insecure_no_auth=given["insecure_no_auth"],
        workers=given["workers"],
        slow_workers=given["slow_workers"],
        kube_qps=given["kube_qps"],
        dry_run=given["dry_run"],
        http_hosts=host_list(given["http_hosts"]) or frozenset(),
        artifact_stores=store_list(given["artifact_stores"]) or (),
        grace=seconds["grace"],
        retention=seconds["retention"],
        record=given["record"],
        nats=server("--nats", given["nats"], NATS),
        redis=server("--redis", given["redis"], REDIS),
        follow=given["follow"],
        redaction=redaction,
        own=OwnIdentity.from_environment(os.environ, MOUNTED),
    )


def _journal_url(given: dict[str, Any]) -> str | None:
    """Return --journal if it is the URL of a database. Raises SettingsError."""
    journal: str = given["journal"]
    if journal.startswith(POSTGRESQL):
        return journal
    if "://" in journal:
        raise SettingsError("--journal is not FILE or postgresql://USER@HOST/DATABASE")
    if given["spool"]:
        raise SettingsError(
            "--spool keeps events for --journal postgresql://…, and a journal in a file does not need it:"
            " remove --spool"
        )
    return None
