"""The admin port: probes for everyone, status, metrics and runs for operators."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from engine.intake.intake import Intake
from engine.journal.records import Pause
from engine.journal.sqlite.journal import SqliteJournal
from engine.model.run import Outcome
from engine.runtime.reload import Reloader
from engine.server.admin_api import AdminApi
from engine.server.admin_port import AdminPort
from engine.server.operator_auth import LoopbackAuthenticator, OperatorsFile, TokenAuthenticator
from engine.server.operator_commands import OperatorCommands
from engine.telemetry.events import CommandExecuted, Observers, Received
from engine.telemetry.metrics import Metrics
from tests.support.engine import PATIENCE
from tests.support.intake import FALCO, NOW, PLAYBOOK, ask, take
from tests.support.playbooks import playbook_from_snapshot

HERE = ("127.0.0.1", 40000)
AWAY = ("10.1.2.3", 40000)
ABOUT = {"version": "1.2.3", "mode": "dry-run", "cluster": None}
JSON = {"content-type": "application/json"}


class Admin:
    """An admin port with a real journal and folder, without workers. now: its clock."""

    def __init__(self, tmp_path, authenticator=None):
        (tmp_path / "playbooks").mkdir()
        (tmp_path / "playbooks" / "a.yaml").write_text(PLAYBOOK)
        self.now = NOW
        self.woken = 0
        self.moments = []
        self.metrics = Metrics()
        observers = Observers(self.metrics, self.moments.append)
        self.journal = SqliteJournal(tmp_path / "j.db", playbook_from_snapshot)
        self.reloader = Reloader(tmp_path / "playbooks", None, self.journal, observers, lambda: NOW)
        self.reloader.start()
        self.intake = Intake(self.journal, lambda: self.reloader.active.playbooks, lambda: self.now)
        self.commands = commands = OperatorCommands(
            journal=self.journal,
            observers=observers,
            wake=self.wake,
            apply_pauses=self.intake.pause,
            now=lambda: self.now,
            playbooks=lambda: {one.name for one in self.reloader.active.set.playbooks},
        )
        api = AdminApi(
            self.journal,
            commands,
            lambda: self.reloader.active,
            self.intake.recent,
            self.metrics.text,
            lambda: ABOUT,
        )
        self.port = AdminPort(
            api, authenticator or LoopbackAuthenticator(), self.reloader.ended_thread
        )

    def wake(self):
        self.woken += 1

    def get(self, path, client=HERE, method="GET", headers=None):
        return ask(self.port, path=path, method=method, client=client, headers=headers)

    def post(self, path, given=None, client=HERE, headers=JSON):
        body = json.dumps(given or {}).encode()
        return ask(self.port, body, path=path, client=client, headers=headers)

    def take(self, **other):
        """Accept an alert. Return the id of its run."""
        taken = take(self.intake, json.dumps(FALCO | other).encode())
        taken.written.result(PATIENCE)
        return taken.runs[0]

    def hold(self):
        """Accept an alert and hold its step. Return the id of its run."""
        run = self.take()
        (claim,) = self.journal.claim("cluster", 1, self.now)
        self.journal.keep(claim, {"held": [claim.step.name, self.now]})
        self.journal.settle(claim, Outcome("held", "over", retry_in=3600.0), self.now)
        return run

    def end(self, state):
        """Claim the due step and settle it. Return the claim."""
        (claim,) = self.journal.claim("cluster", 1, self.now)
        self.journal.settle(claim, Outcome(state, f"it {state}"), self.now)
        return claim


@pytest.fixture
def admin(tmp_path):
    made = Admin(tmp_path)
    yield made
    made.reloader.stop()
    made.journal.close()


@pytest.mark.parametrize("client", [HERE, AWAY, ("::1", 1), None])
@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_need_no_access(admin, path, client):
    assert admin.get(path, client)[0] == 200


def test_livez_fails_if_a_thread_has_ended(admin):
    admin.reloader.stop()
    status, _, answer = admin.get("/livez")
    assert status == 503
    assert "tiercel-reload" in answer["error"]


@pytest.mark.parametrize("client", [AWAY, ("", 1), None, ("2001:db8::1", 1), ("127.0.0.6", 1)])
@pytest.mark.parametrize("path", ["/status", "/metrics", "/runs/x", "/", "/nothing"])
def test_other_pages_need_a_caller_on_this_machine(admin, path, client):
    status, _, said = admin.get(path, client)
    assert (status, set(said)) == (403, {"error", "hint"})


@pytest.mark.parametrize("client", [HERE, ("::ffff:127.0.0.1", 1), ("::1", 1)])
def test_callers_on_this_machine_have_access(admin, client):
    assert admin.get("/status", client)[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example.com:8081"},
        {"origin": "http://evil.example.com"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_web_pages_have_access_only_to_probes(admin, headers):
    assert admin.get("/status", headers=headers)[0] == 403
    assert admin.post("/pause", headers=JSON | headers)[0] == 403
    assert admin.journal.paused() == {}
    assert admin.get("/livez", headers=headers)[0] == 200


def test_the_status_has_every_key_of_the_contract(admin):
    status = admin.get("/status")[2]
    assert set(status) == {*ABOUT, "paused", "pauses", "modes", "playbooks", "queue", "journal"}
    assert status["modes"] == {}
    ((file),) = status["playbooks"]["files"]
    assert (file["path"], file["playbooks"]) == ("a.yaml", ["mark-shell"])
    assert status["playbooks"]["digest"] == admin.reloader.active.set.digest
    assert (status["playbooks"]["loadedAt"], status["playbooks"]["error"]) == (
        "2026-03-01T10:00:00Z",
        None,
    )
    assert status["queue"] == {"waiting": 0, "running": 0, "held": 0, "oldestDueSeconds": 0}
    assert status["journal"] == {"error": None}


def test_the_status_names_the_playbooks_that_do_not_enforce(admin, tmp_path):
    other = PLAYBOOK.replace("mark-shell", "other").replace("  match:", "  mode: notify\n  match:")
    (tmp_path / "playbooks" / "b.yaml").write_text(other)
    admin.reloader.check()
    assert admin.get("/status")[2]["modes"] == {"other": "notify"}


def test_the_status_has_the_waiting_time_of_the_oldest_run(admin):
    take(admin.intake, json.dumps(FALCO).encode()).written.result(PATIENCE)
    admin.now += 7.5
    queue = admin.get("/status")[2]["queue"]
    assert (queue["waiting"], queue["oldestDueSeconds"]) == (1, 7.5)


def test_a_run_is_shown_with_its_state_and_an_unknown_run_is_404(admin):
    taken = take(admin.intake, json.dumps(FALCO).encode())
    taken.written.result(PATIENCE)
    status, _, run = admin.get(f"/runs/{taken.runs[0]}")
    assert (status, run["playbook"], run["target"]) == (200, "mark-shell", "demo/nginx")
    assert (run["outcome"], run["due"]) == (None, "2026-03-01T10:00:00Z")
    for path in ("/runs/none", "/runs/", "/nothing", "/runs/a\0b"):
        assert admin.get(path)[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_other_methods_are_405(admin, method):
    assert admin.get("/status", method=method)[0] == 405
    assert admin.get("/livez", method="POST")[0] == 405


def test_metrics_count_received_events(admin):
    admin.metrics(Received(202, {"run": 3, "duplicate": 1}))
    status, headers, text = admin.get("/metrics")
    assert (status, headers["content-type"].split(";")[0]) == (200, "text/plain")
    assert 'tiercel_events_total{result="run",source="http"} 3.0' in text
    assert "tiercel_playbooks_current 1.0" in text


def test_without_a_journal_the_engine_is_alive_but_not_ready(admin):
    admin.journal.close()
    assert admin.get("/livez")[0] == 200
    status, _, said = admin.get("/readyz")
    assert (status, said) == (503, {"error": "the journal is closed"})
    status, _, said = admin.get("/status")
    assert (status, said["queue"], said["paused"]) == (200, None, None)
    assert said["journal"]["error"] == "the journal is closed"


def test_recent_events_are_listed_with_their_results(admin):
    take(admin.intake, json.dumps(FALCO).encode())
    take(admin.intake, json.dumps({**FALCO, "rule": "Another"}).encode())
    status, _, told = admin.get("/events/recent")
    assert [(got["ended"], got["alert"]["rule"]) for got in told["events"]] == [
        ("run", FALCO["rule"]),
        ("unmatched", "Another"),
    ]
    assert (status, admin.get("/events/recent", client=AWAY)[0]) == (200, 403)


def test_an_approved_run_continues_and_the_approval_is_recorded(admin):
    run = admin.hold()
    assert admin.get("/status")[2]["queue"]["held"] == 1
    (listed,) = admin.get("/runs")[2]["runs"]
    assert (listed["state"], listed["message"]) == ("held", "over")
    assert admin.post(f"/runs/{run[:8]}/approve")[0::2] == (200, {"run": run, "missing": 0})
    (claim,) = admin.journal.claim("cluster", 1, admin.now)
    assert claim.attempt_state["verdict"] == ["pod.label", "approve", "local", ""]
    assert CommandExecuted("approve", "local", NOW, "mark-shell", run, "pod.label") in admin.moments
    assert admin.woken == 1


def test_a_run_that_is_not_held_cannot_be_approved_or_denied(admin):
    run = admin.take()
    for act in ("approve", "deny"):
        status, _, said = admin.post(f"/runs/{run}/{act}")
        assert (status, said) == (409, {"error": "the run is not held, it is waiting"})
    assert admin.post(f"/runs/{'0' * 32}/approve")[0] == 404
    assert not any(isinstance(moment, CommandExecuted) for moment in admin.moments)


def test_a_failed_run_is_retried_from_the_failed_step_or_a_given_one(admin):
    run = admin.take()
    assert admin.post(f"/runs/{run}/retry")[0] == 409
    admin.end("failed")
    assert admin.post(f"/runs/{run}/retry", {"from": "nothing"})[0] == 400
    assert admin.post(f"/runs/{run}/retry")[0] == 200
    admin.end("done")
    status, _, said = admin.post(f"/runs/{run}/retry")
    assert (status, "no step failed" in said["error"]) == (409, True)
    assert admin.post(f"/runs/{run}/retry", {"from": "pod.label"})[0] == 200


@pytest.mark.parametrize("path", ["/pause", "/resume"])
def test_an_unknown_playbook_is_rejected_with_the_closest_name(admin, path):
    status, _, said = admin.post(path, {"playbook": "mark-shel"})
    assert status == 400
    assert said["error"] == (
        "no playbook in force is called `mark-shel`; did you mean `mark-shell`?"
    )
    assert "mean" not in admin.post(path, {"playbook": "quite-another"})[2]["error"]
    assert admin.journal.paused() == {}


def test_the_pause_of_a_removed_playbook_can_be_ended(admin):
    admin.journal.pause("gone", Pause("ada", NOW))
    assert admin.post("/resume", {"playbook": "gone"})[2] == {"paused": []}


def test_an_expired_pause_ends_and_is_recorded(admin):
    given = {"playbook": "mark-shell", "for": "2h", "reason": "upgrade\x1b[31m\u202e\n"}
    assert admin.post("/pause", given)[0] == 200
    (shown,) = admin.get("/status")[2]["pauses"]
    assert shown["reason"] == "upgrade\\x1b[31m\\u202e\\n"
    assert (shown["playbook"], shown["by"]) == ("mark-shell", "local")
    assert shown["until"].startswith("2026-03-01T12:00:00")
    admin.now += 7_199
    admin.commands.end_pauses()
    assert admin.intake.paused == {"mark-shell"}
    admin.now += 1
    admin.commands.end_pauses()
    assert (admin.intake.paused, admin.journal.paused()) == (frozenset(), {})
    ended = admin.moments[-1]
    assert (ended.what, ended.by, ended.playbook) == ("resume", "tiercel", "mark-shell")
    assert admin.take(hostname="later")


def test_a_new_pause_replaces_the_previous_one(admin):
    admin.post("/pause", {"for": "1h"})
    admin.post("/pause", {"reason": "for good"})
    admin.now += 7_200
    admin.commands.end_pauses()
    assert admin.journal.paused()["*"].reason == "for good"


def test_a_reason_is_stored_with_the_run_and_passed_to_observers(admin):
    run = admin.take()
    admin.end("failed")
    assert admin.post(f"/runs/{run}/retry", {"reason": "disk is back"})[0] == 200
    (kept,) = admin.get(f"/runs/{run}")[2]["decisions"]
    assert kept == {
        "time": kept["time"], "decision": "retry", "by": "local", "step": "pod.label",
        "reason": "disk is back",
    }  # fmt: skip
    assert admin.moments[-1].reason == "disk is back"
    assert admin.post(f"/runs/{run}/undo", {"reason": "x" * 1_001})[0] == 400


def test_the_retry_of_a_run_during_a_pause_says_that_it_waits(admin):
    run = admin.take()
    admin.end("failed")
    admin.post("/pause", {"playbook": "other"})
    assert "note" not in admin.post(f"/runs/{run}/retry")[2]
    admin.end("failed")
    admin.post("/pause", {"playbook": "mark-shell"})
    said = admin.post(f"/runs/{run}/retry")[2]
    assert said == {
        "run": run,
        "note": "it waits for the pause to end: tiercel resume --playbook mark-shell",
    }
    admin.post("/resume", {"playbook": "mark-shell"})
    admin.end("failed")
    admin.post("/pause")
    said = admin.post(f"/runs/{run}/retry")[2]
    assert said["note"] == "it waits for the pause to end: tiercel resume"


def test_a_pause_suppresses_events_and_delays_runs_until_it_ends(admin):
    admin.take()
    assert admin.post("/pause", {"playbook": "mark-shell"})[2] == {"paused": ["mark-shell"]}
    assert admin.get("/status")[2]["paused"] == ["mark-shell"]
    assert admin.journal.claim("cluster", 9, admin.now) == []
    taken = take(admin.intake, json.dumps(FALCO | {"hostname": "other"}).encode())
    assert (taken.runs, taken.results) == ([], {"paused": 1})
    assert admin.post("/pause")[2] == {"paused": ["*", "mark-shell"]}
    assert admin.post("/resume", {"playbook": "mark-shell"})[2] == {"paused": ["*"]}
    assert admin.post("/resume")[2] == {"paused": []}
    assert admin.take(hostname="third")
    assert len(admin.journal.claim("cluster", 9, admin.now)) == 1  # one target, one at a time


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/pause", {"playbok": "a"}),
        ("/pause", {"playbook": 5}),
        ("/pause", {"for": "soon"}),
        ("/pause", {"for": "367d"}),
        ("/pause", {"for": "9" * 300 + "d"}),
        ("/resume", {"for": "2h"}),
        ("/pause", {"reason": ["a"]}),
        ("/runs/abcdef/retry", {"step": "a"}),
    ],
)
def test_a_body_with_unknown_keys_is_rejected(admin, path, given):
    assert admin.post(path, given)[0] == 400
    assert admin.journal.paused() == {}


@pytest.mark.parametrize("body", [b"[1]", b"{", b"\xff", b"[" * 3000, b" " * 5000])
def test_a_body_that_is_not_an_object_is_rejected(admin, body):
    status = ask(admin.port, body, path="/pause", client=HERE, headers=JSON)[0]
    assert status == (413 if len(body) > AdminPort.max_body else 400)
    assert admin.journal.paused() == {}


def test_the_form_of_a_web_page_is_rejected(admin):
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert admin.post("/pause", headers=form)[0] == 415
    assert admin.journal.paused() == {}


@pytest.mark.parametrize("headers", [{}, {"content-type": "Application/JSON; charset=utf-8"}])
def test_a_command_is_accepted_as_json_or_without_a_type(admin, headers):
    assert admin.post("/pause", headers=headers)[0] == 200
    assert set(admin.journal.paused()) == {"*"}


@pytest.mark.parametrize("path", ["/runs/abcdef/undo", "/runs", "/status", "/nothing"])
def test_an_unknown_command_is_404(admin, path):
    assert admin.post(path)[0] == 404


def test_runs_are_filtered_by_the_query(admin):
    first = admin.take()
    admin.end("failed")
    second = admin.take(hostname="other")

    def runs(query):
        status, _, said = ask(admin.port, path="/runs", query=query, client=HERE, method="GET")
        return [run["run"] for run in said["runs"]] if status == 200 else status

    assert runs("") == [second, first]
    assert runs("state=failed") == [first]
    assert runs("namespace=demo&playbook=mark-shell&since=5m") == [second, first]
    assert runs("namespace=else") == []
    assert runs("since=2026-03-01T10:00:01Z") == []
    assert runs("limit=1") == [second]


BAD_QUERIES = [
    *(f"limit={text}" for text in ("0", "x", "1001", "-1", "1e3", "1" * 18, "1" * 5000, "")),
    *(f"state={text}" for text in ("x", "Failed", "", "%00")),
    *(f"since={text}" for text in ("never", "", "9" * 400 + "d", "2026-02-30T10:00:00Z", "1h30m")),
    *(f"playbook={text}" for text in ("", "A", "a_b", "%00", "%ff", "a" * 64, "%ed%a0%80")),
    "namespace=%2A",
    "limit=1&limit=2",
    "limits=1",
    "pod=x",
    "&".join(f"p{number}=x" for number in range(21)),
]


@pytest.mark.parametrize("query", BAD_QUERIES)
def test_an_invalid_query_is_400_with_an_error_and_a_hint(admin, query):
    status, _, said = ask(admin.port, path="/runs", query=query, client=HERE, method="GET")
    assert (status, set(said)) == (400, {"error", "hint"})
    assert len(json.dumps(said)) < 300


def test_a_unique_prefix_of_an_id_identifies_a_run(admin):
    run = admin.take()
    assert admin.get(f"/runs/{run[:6]}")[2]["run"] == run
    assert admin.get(f"/runs/{run[:5]}")[0] == 404


@pytest.fixture
def guarded(tmp_path):
    """An admin port with an operators file. ada: role operate. vic: role view."""
    file = tmp_path / "operators"
    lines = [
        f"{name} {role} {digest(name)}" for name, role in (("ada", "operate"), ("vic", "view"))
    ]
    file.write_text("# who may\n\n" + "\n".join(lines) + "  # looks\n")
    made = Admin(tmp_path, TokenAuthenticator(OperatorsFile(file)))
    made.file = file
    yield made
    made.reloader.stop()
    made.journal.close()


def digest(name):
    return hashlib.sha256(f"the token of {name}".encode()).hexdigest()


def bearer(name):
    return {"authorization": f"Bearer the token of {name}"}


def test_the_operators_file_gives_access_by_role(guarded):
    assert guarded.get("/status", AWAY, headers=bearer("vic"))[0] == 200
    assert guarded.get("/metrics", AWAY, headers=bearer("ada"))[0] == 200
    assert guarded.get("/livez", AWAY)[0] == 200
    assert guarded.post("/pause", client=AWAY, headers=JSON | bearer("vic"))[0] == 403
    assert guarded.journal.paused() == {}
    assert guarded.post("/pause", client=AWAY, headers=JSON | bearer("ada"))[0] == 200
    assert guarded.journal.paused()["*"].by == "ada"


@pytest.mark.parametrize("client", [HERE, AWAY])
def test_with_an_operators_file_the_address_gives_no_access(guarded, client):
    assert guarded.get("/status", client)[0] == 403
    assert guarded.get("/status", client, headers=bearer("eve"))[0] == 401
    basic = {"authorization": "Basic the token of ada"}
    assert guarded.get("/status", client, headers=basic)[0] == 401


def test_a_changed_operators_file_applies_at_once_and_an_invalid_line_gives_no_access(guarded):
    guarded.file.write_text(f"eve view {digest('eve')}\n")
    os.utime(guarded.file, ns=(1, 1))
    assert guarded.get("/status", headers=bearer("ada"))[0] == 401
    assert guarded.get("/status", headers=bearer("eve"))[0] == 200
    guarded.file.write_text(f"ada root x\neve view {digest('eve')}\n")
    assert guarded.get("/status", headers=bearer("eve"))[0] == 200
    assert guarded.get("/status", headers=bearer("ada"))[0] == 401


@pytest.mark.parametrize("text", [None, "", "# ada\n", "ada root x\n"])
def test_an_emptied_operators_file_closes_the_port_at_once(guarded, text):
    assert guarded.get("/status", headers=bearer("ada"))[0] == 200
    guarded.file.unlink() if text is None else guarded.file.write_text(text)
    assert guarded.get("/status", headers=bearer("ada"))[0] == 401
    assert guarded.get("/status", HERE)[0] == 403
    assert guarded.get("/livez", AWAY)[0] == 200


def test_a_short_token_gives_no_access_even_if_the_file_has_its_digest(guarded):
    guarded.file.write_text(f"ada operate {hashlib.sha256(b'short').hexdigest()}")
    for token in ("short", ""):
        status, given, said = guarded.get("/status", headers={"authorization": f"Bearer {token}"})
        assert (status, set(said)) == (401, {"error", "hint"})
        assert given["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("text", ["", "# none\n", "ada operate\n", "ada root " + "0" * 64])
def test_an_invalid_operators_file_is_rejected_with_the_line_number(tmp_path, text):
    (tmp_path / "operators").write_text(text)
    with pytest.raises(ValueError, match="operators"):
        TokenAuthenticator(OperatorsFile(tmp_path / "operators"))
