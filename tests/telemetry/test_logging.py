"""The log has one line when something needs attention, and one when it is over."""

from __future__ import annotations

import http.server
import io
import json
import resource
import socket
import threading
from dataclasses import replace

import pytest
import structlog
from engine.model.run import Outcome
from engine.telemetry.events import UNWRITTEN, AttemptEnded
from engine.telemetry.fault_log import FaultLog
from engine.telemetry.logging import configure, log_steps
from tests.execution.test_attempt import LABEL, claim
from tests.runtime.test_serve import kubeconfig
from tests.support.engine import PATIENCE, engine
from tests.support.intake import PLAYBOOK, alert

ENDS = [
    (Outcome("done", "it is"), "next", 1, None),
    (Outcome("skipped", "gone"), "skipped", 1, None),
    (Outcome("refused", "protected"), "refused", 1, None),
    (Outcome("failed", "403"), "failed", 2, "warning"),
    (Outcome("failed", "403"), UNWRITTEN, 2, None),
    (Outcome("held", "over", retry_in=60.0), "waiting", 1, "warning"),
    (Outcome("waiting", "503", retry_in=1.0), "waiting", 1, "info"),
    (Outcome("waiting", "503", retry_in=2.0), "waiting", 2, None),
]


@pytest.mark.parametrize(("outcome", "became", "attempt", "level"), ENDS)
def test_only_failed_and_held_steps_and_the_first_wait_are_logged(outcome, became, attempt, level):
    with structlog.testing.capture_logs() as lines:
        log_steps(AttemptEnded(claim(LABEL, attempt=attempt), outcome, became, 0.0))
    assert [line["log_level"] for line in lines] == ([level] if level else [])


def test_each_refused_attempt_to_undo_is_logged_as_a_warning():
    refused = Outcome("waiting", "missing right: delete on pods", retry_in=5.0, answered=True)
    undo = replace(claim(LABEL, attempt=7), undo="u")
    with structlog.testing.capture_logs() as lines:
        log_steps(AttemptEnded(undo, refused, "waiting", 0.0))
        log_steps(AttemptEnded(undo, replace(refused, answered=False), "waiting", 0.0))
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("undo_refused", "warning")
    assert line["message"] == "missing right: delete on pods"


def test_a_fault_is_logged_when_it_starts_and_when_it_has_not_recurred():
    time = [0.0]
    fault = FaultLog("journal", calm=5.0, now=lambda: time[0], refusing="events")
    with structlog.testing.capture_logs() as lines:
        fault.clear()
        for time[0] in (1.0, 2.0, 3.0):
            fault.report("disk full")
            fault.clear()
        assert [line["event"] for line in lines] == ["journal_unavailable"]
        time[0] = 8.0
        fault.clear()
        fault.clear()
        fault.report("disk full")
    assert [line["event"] for line in lines] == [
        "journal_unavailable",
        "journal_available",
        "journal_unavailable",
    ]
    assert lines[0]["error"] == "disk full"
    assert {line["refusing"] for line in lines} == {"events"}


def test_a_full_disk_is_logged_once_for_all_refused_bodies(tmp_path):
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run") as running:
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        number = 0
        while running.post(alert(number))[0] != 503:
            number += 1
        for _ in range(20):
            assert running.post(alert(number))[0] == 503
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, unlimited)
        running.wait_for_log(lambda line: line["event"] == "journal_available")
        logged = [line for line in running.log if line.get("refusing") == "events"]
    assert [line["event"] for line in logged] == ["journal_unavailable", "journal_available"]


class EmptyApiServer(http.server.BaseHTTPRequestHandler):
    """An API server without objects."""

    def do_GET(self):
        body = b'{"kind": "Status", "code": 404}'
        self.send_response(404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Log nothing."""


def test_an_unavailable_api_server_is_logged_once_and_so_is_its_return(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "kubeconfig"
    config.write_text(kubeconfig(f"http://127.0.0.1:{port}"))
    with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--kubeconfig", str(config)) as running:
        for number in range(9):
            fields = {"k8s.ns.name": "demo", "k8s.pod.name": f"web-{number}"}
            running.post(alert(number, output_fields=fields))
        unavailable = running.wait_for_log(lambda line: line["event"] == "api_server_unavailable")
        assert (unavailable["level"], "refused" in unavailable["error"]) == ("error", True)
        with http.server.ThreadingHTTPServer(("127.0.0.1", port), EmptyApiServer) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                running.wait_for_log(lambda line: line["event"] == "api_server_available")
            finally:
                server.shutdown()
                thread.join(PATIENCE)
        logged = [line for line in running.log if line["event"].startswith("api_server")]
    assert len(logged) == 2


@pytest.fixture
def written():
    """Return a function that logs two lines with a level and a format, and returns the output."""
    stream = io.StringIO()

    def write(level, form):
        configure(stream, level, form)
        for say in (structlog.get_logger().info, structlog.get_logger().warning):
            say("journal", zebra=1, alpha="a")
        return stream.getvalue()

    yield write
    structlog.reset_defaults()


def test_each_line_starts_with_time_level_and_event(written):
    lines = [json.loads(line) for line in written("info", "json").splitlines()]
    assert [list(line)[:3] for line in lines] == [["time", "level", "event"]] * 2
    assert lines[0]["event"] == "journal"


def test_the_level_and_the_format_can_be_set(written):
    text = written("warning", "text")
    assert (text.count("journal"), "{" in text) == (1, False)
