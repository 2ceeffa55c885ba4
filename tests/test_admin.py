"""The admin port: probes for all, status, metrics and runs for callers on this machine."""

from __future__ import annotations

import json

import pytest
from engine.intake import Intake
from engine.journal.sqlite import SqliteJournal
from engine.language.compile import thaw
from engine.observe import Metrics, Observers, Received
from engine.reload import Reloader
from engine.sources.admin import AdminPort

from tests.taking import FALCO, NOW, PLAYBOOK, ask

HERE = ("127.0.0.1", 40000)
AWAY = ("10.1.2.3", 40000)
ABOUT = {"version": "1.2.3", "mode": "dry-run", "paused": [], "cluster": None}


class Admin:
    """An admin port over a real journal and folder, without workers; ``now`` is its clock."""

    def __init__(self, tmp_path):
        (tmp_path / "playbooks").mkdir()
        (tmp_path / "playbooks" / "a.yaml").write_text(PLAYBOOK)
        self.now = NOW
        self.metrics = Metrics()
        self.journal = SqliteJournal(tmp_path / "j.db", thaw)
        self.reloader = Reloader(
            tmp_path / "playbooks", None, self.journal, Observers(self.metrics), lambda: NOW
        )
        self.reloader.start()
        self.intake = Intake(self.journal, lambda: self.reloader.active.playbooks, lambda: self.now)
        self.port = AdminPort(
            self.journal, self.reloader, self.intake.recent, self.metrics, ABOUT,
            now=lambda: self.now, ended=self.reloader.ended,
        )  # fmt: skip

    def get(self, path, client=HERE, method="GET"):
        return ask(self.port, path=path, method=method, client=client)


@pytest.fixture
def admin(tmp_path):
    made = Admin(tmp_path)
    yield made
    made.reloader.stop()
    made.journal.close()


@pytest.mark.parametrize("client", [HERE, AWAY, ("::1", 1), None])
@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_are_free_for_all(admin, path, client):
    assert admin.get(path, client)[0] == 200


def test_an_engine_whose_thread_has_ended_is_not_alive(admin):
    admin.reloader.stop()
    status, _, answer = admin.get("/livez")
    assert status == 503
    assert "tiercel-reload" in answer["error"]


@pytest.mark.parametrize("client", [AWAY, ("", 1), None, ("2001:db8::1", 1)])
@pytest.mark.parametrize("path", ["/status", "/metrics", "/runs/x", "/", "/nothing"])
def test_all_else_is_for_callers_on_this_machine(admin, path, client):
    assert admin.get(path, client)[0] == 403


@pytest.mark.parametrize("client", [HERE, ("127.9.9.9", 1), ("::1", 1)])
def test_callers_on_this_machine_see_it(admin, client):
    assert admin.get("/status", client)[0] == 200


def test_the_status_has_every_key_of_the_contract(admin):
    status = admin.get("/status")[2]
    assert set(status) == {*ABOUT, "playbooks", "queue", "journal"}
    ((file),) = status["playbooks"]["files"]
    assert (file["path"], file["playbooks"]) == ("a.yaml", ["mark-shell"])
    assert status["playbooks"]["digest"] == admin.reloader.active.set.digest
    assert (status["playbooks"]["loadedAt"], status["playbooks"]["error"]) == (
        "2026-03-01T10:00:00Z",
        None,
    )
    assert status["queue"] == {"waiting": 0, "running": 0, "held": 0, "oldestDueSeconds": 0}
    assert status["journal"] == {"error": None}


def test_the_status_tells_how_long_the_oldest_run_has_waited(admin):
    admin.intake.take(json.dumps(FALCO).encode()).written.result(10)
    admin.now += 7.5
    queue = admin.get("/status")[2]["queue"]
    assert (queue["waiting"], queue["oldestDueSeconds"]) == (1, 7.5)


def test_a_run_is_shown_as_it_stands_and_an_unknown_one_is_404(admin):
    taken = admin.intake.take(json.dumps(FALCO).encode())
    taken.written.result(10)
    status, _, run = admin.get(f"/runs/{taken.runs[0]}")
    assert (status, run["playbook"], run["target"]) == (200, "mark-shell", "demo/nginx")
    assert (run["outcome"], run["due"]) == (None, "2026-03-01T10:00:00Z")
    for path in ("/runs/none", "/runs/", "/nothing", "/runs/a\0b"):
        assert admin.get(path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_is_changed_here_yet(admin, method):
    assert admin.get("/status", method=method)[0] == 405


def test_metrics_count_what_was_received(admin):
    admin.metrics(Received(202, {"run": 3, "duplicate": 1}))
    status, headers, text = admin.get("/metrics")
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
    assert 'tiercel_events_total{result="run"} 3.0' in text
    assert "tiercel_playbooks_current 1.0" in text


def test_without_a_journal_it_lives_but_is_not_ready(admin):
    admin.journal.close()
    assert admin.get("/livez")[0] == 200
    status, _, said = admin.get("/readyz")
    assert (status, said) == (503, {"error": "the journal is closed"})
    assert admin.get("/status")[0] == 503


def test_the_last_events_are_told_with_how_they_ended(admin):
    admin.intake.take(json.dumps(FALCO).encode())
    admin.intake.take(json.dumps({**FALCO, "rule": "Another"}).encode())
    status, _, told = admin.get("/events/recent")
    assert [(got["ended"], got["alert"]["rule"]) for got in told["events"]] == [
        ("run", FALCO["rule"]),
        ("unmatched", "Another"),
    ]
    assert (status, admin.get("/events/recent", client=AWAY)[0]) == (200, 403)
