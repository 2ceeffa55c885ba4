"""The two processes of an engine: neither outlives the other, and a restart completes the work."""

import os
import select
import signal

import pytest
from tests.support.engine import PATIENCE, engine
from tests.support.intake import PLAYBOOK, alert


@pytest.fixture
def running(tmp_path):
    with engine(tmp_path, {"mark.yaml": PLAYBOOK}, "--dry-run") as running:
        yield running


def test_an_engine_without_its_worker_process_ends_and_continues_after_a_restart(running):
    os.kill(running.pids[1], signal.SIGKILL)
    assert running._end() == 2
    assert any("continue after a restart" in str(line) for line in running.log)
    running.restart()
    run = running.post(alert(1))[2]["runs"][0]
    assert running.wait_for_audit(lambda line: line["run"] == run)["state"] == "planned"


def test_the_worker_process_of_a_killed_engine_ends(running):
    orphan = running.pids[1]
    descriptor = os.pidfd_open(orphan)
    os.kill(orphan, signal.SIGSTOP)  # also if the process is stopped
    running.kill()
    assert select.select([descriptor], [], [], PATIENCE)[0]
    os.close(descriptor)


def test_new_guardrails_apply_to_the_worker_process(running, tmp_path):
    guardrails = (
        "apiVersion: tiercel.dev/v1\nkind: Guardrails\nmetadata: {name: default}\n"
        "spec: {protected: {namespaces: [demo]}}\n"
    )
    (tmp_path / "playbooks" / "guardrails.yaml").write_text(guardrails)
    running.wait_for_log(
        lambda line: (
            line.get("event") == "playbooks_loaded" and "guardrails.yaml" in _files(running)
        )
    )
    run = running.post(alert(1))[2]["runs"][0]
    assert running.wait_for_audit(lambda line: line["run"] == run)["state"] == "refused"


def _files(running):
    return [file["path"] for file in running.get("/status")[2]["playbooks"]["files"]]
