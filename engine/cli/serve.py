"""tiercel serve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from engine.cli.playbook_arguments import fail
from engine.intake.redaction import RedactError, Redaction
from engine.language import duration
from engine.language.folder import FolderError
from engine.model.errors import PlaybookError, SettingsError
from engine.model.own_identity import MOUNTED, OwnIdentity
from engine.render.findings import finding_lines
from engine.render.text import say
from engine.runtime.settings import NATS, REDIS, Settings, address, host_list, server


class _Lines(click.types.StringParamType):
    """Texts that a variable has one a line: click would split them at blanks, which expressions have."""

    def split_envvar_value(self, rv: str) -> list[str]:
        """The lines that are not empty."""
        return [line for line in rv.replace("\r\n", "\n").split("\n") if line]


_FILE = click.Path(dir_okay=False, path_type=Path)
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("json", "text")


@click.command("serve", context_settings={"auto_envvar_prefix": "TIERCEL", "show_default": True})
@click.option(
    "--playbooks",
    type=click.Path(path_type=Path),
    default="playbooks",
    help="The folder; edits are in force at once.",
)
@click.option("--values", type=_FILE, help="Values for ${…} in place of the folder's values.yaml.")
@click.option("--listen", default="127.0.0.1:8080", help="Where events are posted, on any path.")
@click.option("--admin-listen", default="127.0.0.1:8081", help="Probes, status, metrics, runs.")
@click.option(
    "--journal", type=_FILE, default="tiercel.db", help="Where runs are kept; a local disk."
)
@click.option("--kubeconfig", help="The cluster to act on; else the one that this pod runs in.")
@click.option("--context", help="The kubeconfig's context.")
@click.option(
    "--secrets-dir", type=click.Path(path_type=Path), help="Where fromSecret reads, a file each."
)
@click.option(
    "--token-file",
    type=_FILE,
    help="Senders' bearer tokens, one per line, at least 16 characters; also the password of Basic.",
)
@click.option(
    "--path-secret-file",
    type=_FILE,
    help="Secrets, one per line, at least 16 characters; one ends the path of Falco's own URL.",
)
@click.option("--tls-cert", type=_FILE, help="The event port's certificate chain, PEM; read again.")
@click.option("--tls-key", type=_FILE, help="Its key.")
@click.option(
    "--client-ca", type=_FILE, help="Senders must show a certificate that this authority signed."
)
@click.option(
    "--operators-file",
    type=_FILE,
    help="Who may use the admin port: NAME view|operate SHA256-OF-TOKEN per line; else local programs.",
)
@click.option(
    "--insecure-no-auth",
    is_flag=True,
    help="Without credentials, take events from other machines and from web pages too.",
)
@click.option("--workers", type=click.IntRange(1, 256), default=16, help="Cluster steps at once.")
@click.option(
    "--slow-workers", type=click.IntRange(1, 256), default=16, help="Messages and requests at once."
)
@click.option(
    "--kube-qps",
    type=click.FloatRange(1, 10_000),
    default=100,
    help="Calls a second to the API server.",
)
@click.option("--http-hosts", default="", help="Hosts that http.request may call, with commas.")
@click.option(
    "--redact",
    multiple=True,
    type=_Lines(),
    metavar="FIELD=REGEX",
    help="What the RE2 expression finds in the field (*: in any) is kept, shown and sent as ***; "
    "may be given often, in the variable one a line.",
)
@click.option("--nats", metavar="URL", help="Also take events from a NATS JetStream on falco.>.")
@click.option("--redis", metavar="URL", help="Also take events from a Redis list (?key=falco).")
@click.option("--follow", type=_FILE, help="Also follow a file that Falco writes (file_output).")
@click.option("--record", type=_FILE, help="Write every event to this file, for tiercel replay.")
@click.option("--retention", default="30d", help="How long runs are kept once they are over.")
@click.option("--grace", default="30s", help="How long SIGTERM waits for what is under way.")
@click.option(
    "--dry-run", is_flag=True, help="Do all but act; without a cluster, pods are assumed."
)
@click.option(
    "--story/--no-story", default=False, help="Tell each run as text on stderr, not as audit."
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    help="The least severe lines of the log.",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    help="Of the log (default: text on a terminal, else json).",
)
def command(*, story: bool, log_level: str, log_format: str | None, **given: Any) -> None:
    """Take events, write what matched to the journal, act as the playbooks say.

    Every option is an environment variable, too: --admin-listen is TIERCEL_ADMIN_LISTEN. The audit is JSON
    lines on stdout, logs are on stderr.

    \b
      tiercel serve --dry-run
      curl -d @event.json http://127.0.0.1:8080/events
    """  # noqa: D301 - \b is click's mark for text to be left alone
    from engine.cluster.kubeconfig import ConnectionSettingsError  # noqa: PLC0415 - the same
    from engine.model.errors import JournalError  # noqa: PLC0415 - the same
    from engine.runtime.engine_process import serve  # noqa: PLC0415 - the same
    from engine.runtime.worker_channel import (  # noqa: PLC0415 - --help must be quick
        WorkerProcessError,
    )
    from engine.telemetry.logging import configure  # noqa: PLC0415 - the same

    configure(sys.stderr, log_level, "text" if story else log_format)
    try:
        serve(_settings(given), story=story)
    except (SettingsError, ConnectionSettingsError, JournalError, WorkerProcessError) as error:
        fail(f"tiercel serve: {error}", 2)
    except PlaybookError as error:
        for line in finding_lines(error.findings):
            say(line, err=True)
        fail(f"Nothing was loaded: tiercel check {given['playbooks']}", 1)
    except FolderError as error:
        fail(str(error), 1, f"Nothing was loaded: tiercel check {given['playbooks']}")


def _settings(given: dict[str, Any]) -> Settings:
    """Raises SettingsError."""
    import os  # noqa: PLC0415 - the only reading of the environment that is no flag

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
    return Settings(
        playbooks=given["playbooks"],
        values=given["values"],
        listen=address(given["listen"]),
        admin_listen=address(given["admin_listen"]),
        journal=given["journal"],
        kubeconfig=given["kubeconfig"],
        context=given["context"],
        secrets_dir=given["secrets_dir"],
        token_file=given["token_file"],
        path_secret_file=given["path_secret_file"],
        tls_cert=given["tls_cert"],
        tls_key=given["tls_key"],
        client_ca=given["client_ca"],
        operators_file=given["operators_file"],
        insecure_no_auth=given["insecure_no_auth"],
        workers=given["workers"],
        slow_workers=given["slow_workers"],
        kube_qps=given["kube_qps"],
        dry_run=given["dry_run"],
        http_hosts=host_list(given["http_hosts"]) or frozenset(),
        grace=seconds["grace"],
        retention=seconds["retention"],
        record=given["record"],
        nats=server("--nats", given["nats"], NATS),
        redis=server("--redis", given["redis"], REDIS),
        follow=given["follow"],
        redaction=redaction,
        own=OwnIdentity.from_environment(os.environ, MOUNTED),
    )
