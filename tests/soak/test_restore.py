"""The backup and restore of docs/replicas.md, step by step: an engine goes on with the history and the undos."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.end_to_end import test_approval, test_undo
from tests.support.engine import engine, wait_until
from tests.support.postgres import Postgres, program, scratch

PAGE = Path(__file__).parents[2] / "docs" / "replicas.md"
LABEL = test_undo.FOLDER["mark.yaml"].replace("500ms", "1h").replace("Terminal shell in c", "C")
pods = test_approval.pods


@pytest.fixture
def documented():
    """The blocks of the section, in their order: set up, back up, restore, pause."""
    section = PAGE.read_text().partition("## Backup and restore\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^ *```(?:sh|sql)\n(.*?)^ *```$", section, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    return [textwrap.dedent(block) for block in blocks]


def done(running, event):
    """Send an event, and return its run when it is done."""
    (run,) = running.post(event)[2]["runs"]
    running.wait_for_audit(lambda line: (line.get("run"), line.get("state")) == (run, "done"))
    return run


def tiercel(*arguments):
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.usefixtures("pods")
def test_an_engine_on_a_restored_database_knows_the_history_and_what_is_in_force(
    tmp_path, admin, namespace, engine_kubeconfig, documented, size
):
    if not size.full:
        pytest.skip("only in `make soak`")
    srv = scratch()
    set_up, back_up, restore, pause = [block.replace("/srv/", f"{srv}/") for block in documented]
    path = f"/api/v1/namespaces/{namespace}/pods"
    cluster = ("--kubeconfig", str(engine_kubeconfig))
    events = [
        {**test_approval.alert(namespace, pod), "rule": "Container", "output_fields": fields}
        for pod in "abc"
        for fields in [{"k8s.ns.name": namespace, "k8s.pod.name": pod}]
    ]

    def labels(pod):
        return admin.get(f"{path}/{pod}")["metadata"].get("labels") or {}

    def shell(script):
        programs = Path(program("postgres")).parent
        server.run(
            "sh", "-ec", f"PATH={programs}:$PATH PRIMARY='{server.dsn('postgres')}'\n{script}"
        )

    server = Postgres.primary(srv)
    server.start()
    server.run("mkdir", str(srv / "archive"))
    server.psql(f"{set_up}; CREATE DATABASE journal")
    server.kill()
    server.start()
    with engine(
        tmp_path, {"mark.yaml": LABEL}, "--journal", server.dsn("journal"), *cluster
    ) as old:
        first = done(old, events[0])
        shell(back_up)
        second = done(old, events[1])  # only in the archive
    with server.connect() as connection:
        (segment,) = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
        wait_until((srv / "archive" / segment).exists)
    server.kill_all()

    shell(restore)
    restored = Postgres(srv / "restored")
    restored.start()
    with restored.connect("journal") as connection:
        recovers = "SELECT pg_is_in_recovery()"
        wait_until(lambda: connection.execute(recovers).fetchone() == (False,))
        connection.execute(pause)
    (tmp_path / "new").mkdir()
    flags = ("--journal", restored.dsn("journal"), *cluster)
    with engine(tmp_path / "new", {"mark.yaml": LABEL}, *flags) as new:
        for listed in ((), ("--in-force",)):
            text = tiercel("history", *listed, "--server", new.admin)
            assert first[:8] in text
            assert second[:8] in text
        assert new.post(events[2])[2]["runs"] == []  # paused
        tiercel("resume", "--server", new.admin)
        wait_until(lambda: new.get("/status")[2]["paused"] == [])
        assert [new.post(one)[2]["duplicates"] for one in events[:2]] == [1, 1]
        for run, pod in ((first, "a"), (second, "b")):
            assert labels(pod)["seen"] == "true"
            tiercel("undo", run, "--server", new.admin)
            wait_until(lambda pod=pod: "seen" not in labels(pod))
    restored.kill()
