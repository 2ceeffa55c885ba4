"""`tiercel status`: what an engine uses, and the wait until it uses a folder."""

import json
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.support.engine import PATIENCE, ROOT, engine
from tests.support.intake import PLAYBOOK
from tests.support.loopback_server import LoopbackServer

OTHER = PLAYBOOK.replace("mark-shell", "mark-other")


def status(url, *arguments):
    return CliRunner().invoke(
        cli, ["status", "--server", url, *arguments], prog_name="tiercel", catch_exceptions=False
    )


def test_the_wait_ends_when_the_engine_uses_the_folder(tmp_path):
    expected = tmp_path / "expected"
    expected.mkdir()
    (expected / "a.yaml").write_text(OTHER)
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run") as running:
        late = status(running.admin, "--wait-for", str(expected), "--timeout", "600ms")
        assert late.exit_code == 1
        digest = running.get("/status")[2]["playbooks"]["digest"]
        assert f"not in force after 600ms: the engine uses {digest}" in late.stderr

        command = [sys.executable, "-m", "engine", "status", "--server", running.admin]
        waiting = subprocess.Popen(
            [*command, "--wait-for", str(expected)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert waiting.stderr
        assert digest in waiting.stderr.readline()
        # The new files are not valid at first: the command says why they are not in force.
        (tmp_path / "playbooks" / "a.yaml").write_text("kind: Playbok\n")
        assert "a.yaml:1:7" in waiting.stderr.readline()
        (tmp_path / "playbooks" / "a.yaml").write_text(OTHER)
        out, _ = waiting.communicate(timeout=PATIENCE)
        assert waiting.returncode == 0
        assert running.get("/status")[2]["playbooks"]["digest"] in out

        shown = json.loads(status(running.admin, "-o", "json").stdout)
        assert shown == running.get("/status")[2]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "nowhere",
            "nowhere/status does not begin with http:// or https://\nPass the URL of the admin port",
        ),
        ("http://127.0.0.1:99999", "http://127.0.0.1:99999/status: Failed to parse"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1/status: Failed to establish a new connection"),
    ],
)
def test_an_engine_that_cannot_be_reached_is_named_with_the_next_command(url, message, recwarn):
    result = status(url)
    assert (result.exit_code, result.stderr.startswith(message)) == (2, True), result.stderr
    assert "--server" in result.stderr
    assert not recwarn.list


def test_a_server_that_is_not_an_engine_is_named():
    class Page(LoopbackServer):
        def respond(self, method, path, headers, body):
            del method, path, headers, body
            return 404, {"Content-Type": "text/html"}, b"<html>"

    with Page() as page:
        result = status(f"http://{page.address}")
    assert result.exit_code == 2
    assert "is not the admin port of an engine (HTTP 404)\nPass the admin port" in result.stderr


def test_the_wait_survives_an_engine_that_starts_late(tmp_path):
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run") as running:
        address = running.admin.removeprefix("http://")
    folder = str(tmp_path / "playbooks")
    result = []
    wait = threading.Thread(
        target=lambda: result.append(status(f"http://{address}", "--wait-for", folder)), daemon=True
    )
    wait.start()
    with engine(tmp_path, tmp_path / "playbooks", "--dry-run", "--admin-listen", address):
        wait.join(PATIENCE)
        assert result[0].exit_code == 0, result[0].stderr


def test_a_wrong_token_and_a_wrong_folder_end_the_wait_at_once(tmp_path):
    operators = tmp_path / "operators"
    operators.write_text(f"ada view {'0' * 64}\n")
    (tmp_path / "token").write_text("x" * 20)
    flags = ("--dry-run", "--operators-file", str(operators))
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, *flags) as running:
        folder = str(tmp_path / "playbooks")
        token = ("--token-file", str(tmp_path / "token"))
        refused = status(running.admin, "--wait-for", folder, *token)
        assert (refused.exit_code, refused.stdout) == (2, "")
        wrong = status(running.admin, "--wait-for", str(operators), *token)
        assert wrong.exit_code == 1
    assert status("http://127.0.0.1:9", "--timeout", "soon").exit_code == 2
