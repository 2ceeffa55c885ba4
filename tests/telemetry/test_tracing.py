"""OpenTelemetry: the span of a body is a child of its sender's, and that of an attempt of the body's."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading

import pytest
from engine.model.errors import SettingsError
from engine.sources.http import EventPort
from engine.telemetry.events import Observers
from engine.telemetry.tracing import Tracing, tracing
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.support.engine import engine
from tests.support.intake import FALCO, PLAYBOOK, InstantJournal, ask, intake_of
from tests.support.loopback_server import LoopbackServer

SENDER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CANARY = "s3cr3t-canary"


@pytest.fixture
def spans():
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    exporter.tracing = Tracing(provider)
    yield exporter
    provider.shutdown()


@pytest.mark.parametrize("parent", [SENDER, "", "00-junk", "a" * 5000, "\u00e9"])
def test_the_span_of_a_body_is_a_child_of_the_senders_span_if_its_header_is_valid(spans, parent):
    disk = InstantJournal()
    port = EventPort(intake_of(disk), Observers(), lambda: None, (), spans.tracing)
    assert ask(port, FALCO, headers={"traceparent": parent} if parent else {})[0] == 202
    (span,) = spans.get_finished_spans()
    assert span.attributes == {"http.response.status_code": 202}
    assert (span.parent is not None) is (parent == SENDER)
    if parent == SENDER:
        assert f"{span.context.trace_id:032x}" == SENDER[3:35]


def test_a_refused_body_has_a_span(spans):
    port = EventPort(intake_of(InstantJournal()), Observers(), lambda: None, (), spans.tracing)
    assert ask(port, b"{")[0] == 400
    assert [
        span.attributes["http.response.status_code"] for span in spans.get_finished_spans()
    ] == [400]


class Collector(LoopbackServer):
    """Receives spans like OpenTelemetry's collector."""

    def __init__(self):
        super().__init__()
        self.spans, self.names, self.came = [], {}, threading.Condition()

    def respond(self, method, path, headers, body):
        del method, path, headers
        exported = ExportTraceServiceRequest.FromString(body)
        with self.came:
            for resource in exported.resource_spans:
                self.names = {a.key: a.value.string_value for a in resource.resource.attributes}
                self.spans += [s for scope in resource.scope_spans for s in scope.spans]
            self.came.notify_all()
        return 200, {}, b""


def test_an_engine_exports_the_spans_of_a_body_and_of_its_attempts(tmp_path):
    with Collector() as server:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{server.address}",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
        }
        with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run", env=env) as running:
            (run,) = running.post(FALCO, headers={"traceparent": SENDER})[2]["runs"]
            running.wait_for_audit(lambda line: line.get("run") == run)
            assert running.terminate() == 0
    body, attempt = sorted(server.spans, key=lambda span: span.start_time_unix_nano)
    assert server.names["service.name"] == "tiercel"
    assert (body.name, attempt.name) == ("POST events", "attempt pod.label")
    assert body.trace_id.hex() == attempt.trace_id.hex() == SENDER[3:35]
    assert (body.parent_span_id.hex(), attempt.parent_span_id) == (SENDER[36:52], body.span_id)
    attributes = {a.key: a.value.string_value for a in attempt.attributes}
    assert (attributes["tiercel.run"], attributes["tiercel.state"]) == (run, "planned")


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "hangs"])
def test_an_unavailable_collector_is_logged_and_does_not_delay_the_stop(tmp_path, listens):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not listens:
            server.close()
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
        }
        with engine(tmp_path, {"a.yaml": PLAYBOOK}, "--dry-run", env=env) as running:
            (run,) = running.post(FALCO)[2]["runs"]
            running.wait_for_audit(lambda line: line.get("run") == run)
            assert running.terminate() == 0
            warnings = [line for line in running.log if "spans" in line["event"]]
            assert {line["level"] for line in warnings} == {"warning"}  # from both processes
            assert [line for line in running.log if "line" in line] == []


def test_libraries_log_json_lines_like_the_engine():
    script = (
        "import logging, sys; from engine.telemetry.logging import configure; configure(sys.stderr);"
        "logging.getLogger('library').error('it %s', 'broke');"
        "logging.getLogger('library').info('idle talk')"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stderr
    (line,) = map(json.loads, said.splitlines())
    assert (line["event"], line["level"], line["logger"]) == ("it broke", "error", "library")
    assert list(line)[:3] == ["time", "level", "event"]


def test_tracing_is_off_without_the_variables_and_needs_the_extra(monkeypatch):
    assert tracing({}) is None
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"tiercel\[otel\]"):
        tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
