"""A journal with a held run and a change in force moves to PostgreSQL, and an engine there completes both."""

from __future__ import annotations

from click.testing import CliRunner
from engine.cli.command_group import cli
from tests.end_to_end import test_approval, test_undo
from tests.support.engine import engine
from tests.support.postgres import database_of

LABEL = test_undo.FOLDER["mark.yaml"].replace("500ms", "1h").replace("Terminal shell in c", "C")
pods = test_approval.pods
FOLDER = {**test_approval.FOLDER, "mark.yaml": LABEL}


def test_an_engine_on_the_copy_approves_and_undoes_what_the_old_engine_began(
    tmp_path,
    admin,
    namespace,
    pods,
    engine_kubeconfig,
):
    def tiercel(*arguments):
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    def labels():
        found = {p["metadata"]["name"]: p["metadata"].get("labels", {}) for p in admin.list(path)}
        return found.get("c")

    path, url = f"/api/v1/namespaces/{namespace}/pods", database_of(tmp_path / "database")
    cluster = ("--kubeconfig", str(engine_kubeconfig))
    marked = {**test_approval.alert(namespace, "c"), "rule": "Container"}
    with engine(tmp_path, FOLDER, *cluster) as old:
        events = [test_approval.alert(namespace, "a"), test_approval.alert(namespace, "b"), marked]
        runs, states = [], []
        for event in events:  # one after the other, because the budget is for the first one
            runs += (run := old.post(event)[2]["runs"])
            states.append(
                old.wait_for_audit(lambda line, run=run: [line.get("run")] == run)["state"]
            )
        assert states == ["done", "held", "done"]
        assert labels() == {"seen": "true"}
        refused = CliRunner().invoke(cli, ["journal", "copy", str(tmp_path / "tiercel.db"), url])
        assert (refused.exit_code, "owns it" in refused.output) == (1, True)
        old.terminate()
    tiercel("journal", "copy", str(tmp_path / "tiercel.db"), url)
    (tmp_path / "new").mkdir()
    with engine(tmp_path / "new", FOLDER, "--journal", url, *cluster) as new:
        tiercel("approve", runs[1], "--server", new.admin)
        new.wait_for_audit(lambda line: (line.get("run"), line.get("state")) == (runs[1], "done"))
        tiercel("undo", runs[2], "--server", new.admin)
        new.wait_for_audit(lambda line: line.get("state") == "undone")
        assert labels() == {}
        assert pods() == ["c"]
        assert [new.post(event)[2]["duplicates"] for event in events] == [1, 1, 1]
