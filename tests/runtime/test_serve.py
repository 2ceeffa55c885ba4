"""``tiercel serve`` as a process: start, invalid settings, shutdown and restart."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import subprocess
from urllib.parse import urlsplit

import pytest
import urllib3
from engine.cli import serve
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.errors import SettingsError
from engine.runtime.listeners import listen, load_access
from engine.runtime.settings import address
from tests.server.test_listener import Authority, trusting
from tests.support.engine import PATIENCE, call, command_of, engine, refusal
from tests.support.intake import FALCO, PLAYBOOK, alert
from tests.support.playbooks import playbook_from_snapshot

FOLDER = {"a.yaml": PLAYBOOK}


def test_the_first_log_lines_have_addresses_playbooks_and_mode(tmp_path):
    with engine(tmp_path, FOLDER, "--dry-run") as running:
        loaded = running.wait_for_log(lambda line: line["event"] == "playbooks_loaded")
        assert loaded["playbooks"] == 1
        listening = running.wait_for_log(lambda line: line["event"] == "listening")
        assert listening["events"].startswith("http://127.0.0.1:")
        assert listening["tokens"] is False
        running.wait_for_log(lambda line: line["event"] == "dry_run")


def test_a_dry_run_shows_the_calls_it_would_make(tmp_path):
    with engine(tmp_path, FOLDER, "--dry-run") as running:
        status, _, said = running.post(FALCO)
        assert status == 202
        (run,) = said["runs"]
        line = running.wait_for_audit(lambda line: line["run"] == run)
        assert (line["state"], line["target"]) == ("planned", "demo/nginx")
        status, _, shown = running.get(f"/runs/{run}")
        assert (status, shown["outcome"]) == (200, "planned")
        (call,) = shown["steps"][0]["calls"]
        assert (call["verb"], call["resource"], call["name"]) == ("patch", "pods", "nginx")


def test_a_story_replaces_the_audit_with_text(tmp_path):
    with engine(tmp_path, FOLDER, "--dry-run", "--story") as running:
        running.post(FALCO)
        running.wait_for_log(lambda line: "mark-shell  dry run" in line.get("line", ""))
        running.wait_for_log(lambda line: "pods/nginx" in line.get("line", ""))
        assert running.audit == []


def test_sigterm_ends_with_exit_0_and_the_journal_opens_again(tmp_path):
    with engine(tmp_path, FOLDER, "--dry-run") as running:
        (run,) = running.post(FALCO)[2]["runs"]
        assert running.terminate() == 0
        running.wait_for_log(lambda line: line["event"] == "stopped")
    journal = SqliteJournal(tmp_path / "tiercel.db", playbook_from_snapshot)
    assert journal.known([run]) == {run}
    journal.close()


SLOW = """
apiVersion: tiercel.dev/v1
kind: Playbook
metadata: {name: slow}
spec:
  match: {rules: [Terminal shell in container]}
  actions: [{action: http.request, timeout: 10m, with: {url: "http://127.0.0.1:PORT/"}}]
"""


@contextlib.contextmanager
def hanging(tmp_path, *args):
    """An engine with a running step whose server never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        text = SLOW.replace("PORT", str(silent.getsockname()[1]))
        config = tmp_path / "kubeconfig"
        config.write_text(kubeconfig("http://127.0.0.1:1"))
        given = ("--kubeconfig", str(config), "--http-hosts", "127.0.0.1", *args)
        with engine(tmp_path, {"a.yaml": text}, *given) as running:
            running.post(FALCO)
            connection, _ = silent.accept()
            with connection:
                yield running


def test_sigterm_waits_for_a_step_up_to_the_grace_period(tmp_path):
    with hanging(tmp_path, "--grace", "100ms") as running:
        assert running.terminate() == 0
        running.wait_for_log(lambda line: line["event"] == "attempts_interrupted")


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_engine_at_once(tmp_path, first, second):
    with hanging(tmp_path, "--grace", "10m") as running:
        running.signal(first)
        running.wait_for_log(lambda line: line["event"] == "draining")
        running.signal(second)
        assert running.wait() == 128 + second


@contextlib.contextmanager
def unheard(tmp_path):
    """An engine whose log is no longer read. Yields the process, and the URL of its event port."""
    command, env = command_of(tmp_path, FOLDER, ("--dry-run",), {})
    with subprocess.Popen(
        command, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            lines = map(json.loads, process.stderr)
            events = next(line["events"] for line in lines if line["event"] == "listening")
            process.stderr.close()
            yield process, events
        finally:
            process.kill()


def test_events_are_answered_while_the_log_cannot_be_written(tmp_path):
    with unheard(tmp_path) as (process, events):
        assert call(events, "POST", "/", json.dumps(alert(1)).encode())[0] == 202
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        assert call(events, "POST", "/", json.dumps(alert(2)).encode())[0] == 503
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, unlimited)
        assert call(events, "POST", "/", json.dumps(alert(2)).encode())[0] == 202


def test_the_engine_ends_while_the_log_cannot_be_written(tmp_path):
    with unheard(tmp_path) as (process, _):
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_a_deleted_journal_is_reported_and_events_are_rejected(tmp_path):
    with engine(tmp_path, FOLDER, "--dry-run") as running:
        assert running.post(alert(1))[0] == 202
        running.wait_for_audit(lambda line: "state" in line)  # both processes have the journal open
        (tmp_path / "tiercel.db").unlink()
        running.wait_for_log(lambda line: "deleted or replaced" in line.get("error", ""))
        status, headers, said = running.post(alert(2))
        assert (status, headers["retry-after"]) == (503, "5")
        assert "restart the engine" in said["error"]
        assert running.get("/readyz")[0] == 503
        assert running.get("/livez")[0] == 200
        running.restart()
        assert running.post(alert(2))[0] == 202


def kubeconfig(server):
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
    )


def test_events_answered_with_202_are_executed_after_a_kill(tmp_path):
    with engine(tmp_path, FOLDER, "--dry-run") as running:
        runs = [running.post(alert(number))[2]["runs"][0] for number in range(5)]
        running.kill()
        running.restart()
        for run in runs:
            # a run settled just before the kill has no line
            if running.get(f"/runs/{run}")[2]["outcome"] is None:
                running.wait_for_audit(lambda line, run=run: line["run"] == run)
        assert [running.get(f"/runs/{run}")[2]["outcome"] for run in runs] == ["planned"] * 5
        assert running.post(alert(0))[2]["duplicates"] == 1


def test_no_event_is_lost_with_an_unreachable_cluster_and_a_kill(tmp_path):
    config = tmp_path / "kubeconfig"
    config.write_text(kubeconfig("http://127.0.0.1:1"))
    with engine(tmp_path, FOLDER, "--kubeconfig", str(config)) as running:
        (run,) = running.post(FALCO)[2]["runs"]
        running.wait_for_audit(lambda line: line["run"] == run and line["state"] == "waiting")
        running.kill()
        running.restart()
        record = running.get(f"/runs/{run}")[2]
        assert record["outcome"] is None
        assert record["due"]


def test_a_port_open_to_other_machines_needs_credentials_or_an_explicit_flag(tmp_path):
    code, said = refusal(tmp_path, FOLDER, "--dry-run", "--listen", "0.0.0.0:0")
    assert code == 2
    assert "--token-file" in said
    assert "--insecure-no-auth" in said
    tokens = tmp_path / "tokens"
    tokens.write_text("canary-of-a-sender\n")
    args = ("--dry-run", "--listen", "0.0.0.0:0", "--token-file", str(tokens))
    with engine(tmp_path, FOLDER, *args) as running:
        running.events = running.events.replace("0.0.0.0", "127.0.0.1")
        assert running.post(FALCO)[0] == 401
        assert running.post(FALCO, headers={"Authorization": "Bearer canary-of-a-sender"})[0] == 202
        assert "canary" not in json.dumps(running.log + running.audit)


def test_a_client_certificate_replaces_a_token(tmp_path):
    authority = Authority(tmp_path, "ca")
    (cert, key), pair = authority.pair("tiercel"), authority.pair("falcosidekick")
    tls = ("--tls-cert", str(cert), "--tls-key", str(key))
    args = ("--dry-run", "--listen", "0.0.0.0:0", *tls)
    assert "--client-ca" in refusal(tmp_path, FOLDER, *args)[1]
    with engine(tmp_path, FOLDER, *args, "--client-ca", str(authority.file)) as running:
        assert running.events.startswith("https://")
        url = running.events.replace("0.0.0.0", "127.0.0.1") + "/events"
        context = trusting(authority, pair)
        with urllib3.PoolManager(ssl_context=context, retries=False) as falcosidekick:
            assert falcosidekick.request("POST", url, body=json.dumps(FALCO)).status == 202
        refused = (urllib3.exceptions.SSLError, urllib3.exceptions.ProtocolError)
        with (
            urllib3.PoolManager(ssl_context=trusting(authority), retries=False) as stranger,
            pytest.raises(refused),
        ):
            stranger.request("POST", url, body="{}")


def test_the_default_kubeconfig_is_never_used(tmp_path):
    found = tmp_path / "config"
    found.write_text(kubeconfig("http://127.0.0.1:1"))
    env = {"KUBECONFIG": str(found), "HOME": str(tmp_path)}
    code, said = refusal(tmp_path, FOLDER, env=env)
    assert code == 2
    assert "--kubeconfig" in said
    assert "--dry-run" in said


def test_the_start_imports_no_library_that_it_does_not_use(tmp_path):
    env = {"PYTHONPROFILEIMPORTTIME": "1"}
    said = refusal(tmp_path, FOLDER, "--dry-run", "--token-file", "missing", env=env)[1]
    lines = [line for line in said.splitlines() if line.startswith("import time:")]
    names = [line.rpartition("|")[2].strip() for line in lines]
    # a package without its modules is one whose import failed
    imported = {name.partition(".")[0] for name in names if "." in name}
    assert {"engine", "structlog"} <= imported
    assert not imported & {"rich", "nats", "redis", "slack_sdk", "psycopg", "apprise", "obstore"}


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--listen", "nowhere"], "HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "HOST:PORT"),
        (["--listen", "no.such.host.invalid:1", "--insecure-no-auth"], "cannot listen"),
        (["--grace", "soon"], "--grace"),
        (["--workers", "0"], "--workers"),
        (["--token-file", "missing"], "--token-file"),
        (["--tls-cert", "missing"], "both"),
        (["--client-ca", "missing"], "both"),
        (["--tls-cert", "missing", "--tls-key", "missing"], "missing"),
        (["--kubeconfig", "missing"], "missing"),
        (["--playbooks", "missing"], "missing"),
    ],
)
def test_an_invalid_setting_is_an_error_message(tmp_path, args, word):
    code, said = refusal(tmp_path, FOLDER, "--dry-run", *args)
    assert code == (1 if "--playbooks" in args else 2)
    assert word in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("flag", "url"),
    [
        ("--redis", "redis://:canary#x@h/0"),
        ("--redis", "redis://:canary/x@h/0"),
        ("--redis", "redis://:12?canary@h/0"),
        ("--redis", "redis://:canary[x@h/0"),
        ("--redis", "redis://u:canary@h:99999/0"),
        ("--redis", "redis://u:canary@h/canary"),
        ("--redis", "http://u:canary@h/0"),
        ("--redis", "u:canary@h"),
        ("--nats", "nats://u:canary/pw@h"),
        ("--nats", "nats://u:12/canary@h"),
        ("--nats", "nats://u:canary#pw@h"),
        ("--nats", "nats://u:canary@"),
        ("--nats", "redis://u:canary@h"),
    ],
)
def test_an_invalid_server_url_is_rejected_without_its_password(flag, url):
    with pytest.raises(SettingsError) as caught:
        serve._settings(settings_of(flag, url))
    assert flag in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "url"),
    [
        ("--redis", "redis://:p%23w@redis:6379/0?key=falco"),
        ("--redis", "rediss://u:p@[::1]"),
        ("--nats", "nats://token@nats"),
        ("--nats", "tls://u:p%2Fw@nats:4222/"),
    ],
)
def test_all_documented_server_urls_are_accepted(flag, url):
    assert getattr(serve._settings(settings_of(flag, url)), flag.removeprefix("--")) == url


def settings_of(*args):
    return serve.command.make_context("serve", list(args)).params


def test_an_invalid_url_is_one_line_without_a_traceback(tmp_path):
    code, said = refusal(tmp_path, FOLDER, "--dry-run", "--nats", "nats://u:canary/pw@h")
    assert code == 2
    assert len(said.strip().splitlines()) == 1
    assert "canary" not in said


def test_a_port_or_journal_in_use_is_an_error_message(tmp_path):
    with engine(tmp_path, FOLDER, "--dry-run") as running:
        taken = f"127.0.0.1:{urlsplit(running.events).port}"
        for args, word in (((), "tiercel.db"), (("--listen", taken), taken)):
            code, said = refusal(tmp_path, tmp_path / "playbooks", "--dry-run", *args)
            assert code == 2
            assert word in said
            assert len(said.strip().splitlines()) == 1
        assert running.post(FALCO)[0] == 202


def test_variables_set_the_same_values_as_flags(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("t" * 16)
    env = {
        "TIERCEL_DRY_RUN": "true",
        "TIERCEL_LISTEN": "127.0.0.1:0",
        "TIERCEL_ADMIN_LISTEN": "127.0.0.1:0",
        "TIERCEL_JOURNAL": str(tmp_path / "other.db"),
        "TIERCEL_TOKEN_FILE": str(tokens),
    }
    with engine(tmp_path, FOLDER, env=env) as running:
        assert running.post(FALCO)[0] == 401
    assert (tmp_path / "other.db").exists()


VARIABLES = {
    "log_format": "text",
    "log_level": "debug",
    "playbooks": "p",
    "values": "v",
    "listen": "127.0.0.1:1",
    "admin_listen": "127.0.0.1:2",
    "journal": "j",
    "journal_password_file": "jp",
    "spool": "sp",
    "kubeconfig": "k",
    "context": "c",
    "secrets_dir": "s",
    "token_file": "t",
    "tls_cert": "/c/tls.crt",
    "tls_key": "/c/tls.key",
    "client_ca": "/c/ca.crt",
    "path_secret_file": "ps",
    "operators_file": "o",
    "kubernetes_operators": True,
    "kubernetes_audience": "tiercel",
    "slack_app_token_file": "a",
    "slack_api": "https://slack-gov.com/api/",
    "insecure_no_auth": True,
    "workers": 3,
    "slow_workers": 4,
    "kube_qps": 5.0,
    "http_hosts": "a,b",
    "artifact_stores": "file:///a,s3://bucket/b",
    "grace": "1s",
    "redact": ("x=y",),
    "record": "r",
    "nats": "nats://n",
    "redis": "redis://r",
    "follow": "f",
    "retention": "1d",
    "dry_run": True,
    "story": True,
}


def test_each_flag_has_a_variable(monkeypatch):
    for name, value in VARIABLES.items():
        text = "\n".join(value) if isinstance(value, tuple) else str(value).lower()
        monkeypatch.setenv(f"TIERCEL_{name.upper()}", text)
    found = serve.command.make_context("serve", []).params
    assert {name: str(value) for name, value in found.items() if name != "help"} == {
        name: str(value) for name, value in VARIABLES.items()
    }


def test_a_variable_with_several_values_has_one_per_line_and_keeps_blanks(monkeypatch):
    monkeypatch.setenv("TIERCEL_REDACT", "proc.cmdline=password: \\S+\r\n*=-p canary key=x\n\n")
    found = serve.command.make_context("serve", []).params
    assert found["redact"] == ("proc.cmdline=password: \\S+", "*=-p canary key=x")


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("127.example.com:1", False),
        ("10.0.0.1:1", False),
    ],
)
def test_only_loopback_addresses_are_local(text, loopback):
    assert address(text).loopback is loopback
    assert str(address(text)) == text


@pytest.mark.parametrize("text", ["", "8080", ":8080", "host:", "host:x", "host:²", "host:65536"])
def test_an_invalid_address_is_rejected(text):
    with pytest.raises(SettingsError):
        address(text)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--journal", "mysql://db/tiercel"), "--journal is not FILE or postgresql://"),
        (("--spool", "s.db"), "remove --spool"),
        (("--record", "none/events.ndjson"), "--record: none is not a folder"),
        (
            ("--token-file", "none"),
            "--token-file, --path-secret-file: none: No such file or directory",
        ),
        (("--operators-file", "none"), "--operators-file: none: No such file or directory"),
    ],
)
def test_a_setting_that_cannot_work_is_an_error_at_the_start(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as caught:
        load_access(serve._settings(settings_of(*flags)))
    assert message in str(caught.value)


def test_a_port_that_is_in_use_is_an_error_with_the_options_to_change():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = address(f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(SettingsError) as caught, listen(used):
            pass
    assert str(caught.value) == (
        f"cannot listen on {used}: Address already in use; choose another --listen or --admin-listen HOST:PORT"
    )
