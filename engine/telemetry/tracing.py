"""OpenTelemetry spans of each body of events and of each attempt.

The span of an attempt is a child of the span of the body that its event arrived in, even minutes or a restart
later. The span of a body is a child of its sender's span if the sender sends ``traceparent`` (W3C Trace
Context). The libraries are in the extra ``otel``, and OpenTelemetry's own variables turn the spans on.
"""

from __future__ import annotations

import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog

from engine.model.errors import SettingsError
from engine.telemetry.events import AttemptEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.server.messages import Reply
    from engine.telemetry.events import EngineEvent

log = structlog.get_logger()
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_TRACEPARENT = "traceparent"
_FIRST_ERROR_STATUS = 500
_SHUTDOWN_TIMEOUT = 1.0
"""Seconds to send the last spans."""


def tracing(environment: Mapping[str, str]) -> Tracing | None:
    """Return the tracing that OpenTelemetry's variables configure, or None without an endpoint.

    Raises SettingsError if the libraries are not installed.
    """
    if not any(environment.get(name) for name in _ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - an extra
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - the same
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - the same
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - the same
    except ImportError as error:
        raise SettingsError(
            f"{' or '.join(_ENDPOINTS)} is set, but {error.name} is not installed: "
            "pip install 'tiercel[otel]', or unset it"
        ) from None
    attributes = {"service.name": "tiercel", "service.version": version("tiercel")}
    # stop() ends the provider. Its own exit hook would wait without a limit.
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


class Tracing:
    """Creates spans. provider: a TracerProvider of OpenTelemetry's SDK."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace import (  # noqa: PLC0415 - an extra
            SpanKind,
            StatusCode,
            set_span_in_context,
        )
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 - the same
            TraceContextTextMapPropagator,
        )

        self._provider = provider
        self._tracer = provider.get_tracer("tiercel", version("tiercel"))
        self._propagator = TraceContextTextMapPropagator()
        self._server, self._error = SpanKind.SERVER, StatusCode.ERROR
        self._context_of = set_span_in_context

    def start_body_span(self, traceparent: bytes) -> BodySpan:
        """Start the span of a body. traceparent: the sender's header, or empty."""
        context = self._propagator.extract({_TRACEPARENT: traceparent.decode("latin-1")})
        span = self._tracer.start_span("POST events", context, self._server)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._context_of(span))
        return BodySpan(span, carrier.get(_TRACEPARENT, ""), self._error)

    def __call__(self, engine_event: EngineEvent) -> None:
        """Create the span of an attempt that ended. Ignores other engine events."""
        if not isinstance(engine_event, AttemptEnded):
            return
        claim, outcome = engine_event.claim, engine_event.outcome
        end = int(engine_event.time * 1e9)
        span = self._tracer.start_span(
            f"{'undo' if claim.undo else 'attempt'} {claim.step.action}",
            self._propagator.extract({_TRACEPARENT: claim.run.trace}),
            start_time=end - int(engine_event.seconds * 1e9),
            attributes={
                "tiercel.run": claim.run.id,
                "tiercel.playbook": claim.run.playbook.name,
                "tiercel.step": claim.step.name,
                "tiercel.target": claim.run.target,
                "tiercel.attempt": claim.attempt,
                "tiercel.state": outcome.state,
            },
        )
        if outcome.state == "failed":
            span.set_status(self._error)
        span.end(end)

    def stop(self) -> None:
        """Send the last spans. Gives up after a second, because the library would make all its retries."""
        shutdown = threading.Thread(target=self._provider.shutdown, name="otel-end", daemon=True)
        shutdown.start()
        shutdown.join(_SHUTDOWN_TIMEOUT)
        if shutdown.is_alive():
            log.warning("spans_lost", error="the collector did not accept the last spans")


class BodySpan:
    """The span of a body. traceparent: the parent of the spans of its attempts."""

    def __init__(self, span: Any, traceparent: str, error: Any) -> None:
        self._span, self.traceparent, self._error = span, traceparent, error

    def ending(self, reply: Callable[[Reply], None]) -> Callable[[Reply], None]:
        """Return a ``reply`` that also ends the span."""

        def end_and_reply(answer: Reply) -> None:
            self._span.set_attribute("http.response.status_code", answer.status)
            if answer.status >= _FIRST_ERROR_STATUS:
                self._span.set_status(self._error)
            self._span.end()
            reply(answer)

        return end_and_reply
