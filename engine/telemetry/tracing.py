"""OpenTelemetry's spans, where its own variables ask for them: of each body of events, and of each attempt.

An attempt belongs to the body that its event came with, minutes or a restart later; the body to the span of
its sender, where that sent a ``traceparent`` (W3C Trace Context). The libraries are the extra ``otel``.
"""

from __future__ import annotations

import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog

from engine.model.errors import SettingsError
from engine.telemetry.events import Settled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.server.messages import Reply
    from engine.telemetry.events import EngineEvent

log = structlog.get_logger()
_ASKED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PARENT = "traceparent"
_ERROR = 500
_LAST = 1.0
"""Seconds for the last spans."""


def tracing(environment: Mapping[str, str]) -> Tracing | None:
    """Spans to where OpenTelemetry's variables say; None where they say nothing.

    Raises SettingsError where the libraries are not there.
    """
    if not any(environment.get(name) for name in _ASKED):
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
            f"{' or '.join(_ASKED)} is set, but {error.name} is not installed: "
            "pip install 'tiercel[otel]', or unset it"
        ) from None
    told = {"service.name": "tiercel", "service.version": version("tiercel")}
    # it is stopped by us; its own hook at the interpreter's end would wait without a bound
    provider = TracerProvider(resource=Resource.create(told), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


class Tracing:
    """Makes spans. provider: a TracerProvider of OpenTelemetry's SDK."""

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
        self._context = TraceContextTextMapPropagator()
        self._server, self._failed = SpanKind.SERVER, StatusCode.ERROR
        self._of = set_span_in_context

    def begin(self, parent: bytes) -> Body:
        """A body has come. parent: the sender's ``traceparent``, empty without one."""
        context = self._context.extract({_PARENT: parent.decode("latin-1")})
        span = self._tracer.start_span("POST events", context, self._server)
        carrier: dict[str, str] = {}
        self._context.inject(carrier, self._of(span))
        return Body(span, carrier.get(_PARENT, ""), self._failed)

    def __call__(self, moment: EngineEvent) -> None:
        """An attempt has ended."""
        if not isinstance(moment, Settled):
            return
        claim, outcome = moment.claim, moment.outcome
        end = int(moment.time * 1e9)
        span = self._tracer.start_span(
            f"{'undo' if claim.undo else 'attempt'} {claim.step.action}",
            self._context.extract({_PARENT: claim.run.trace}),
            start_time=end - int(moment.seconds * 1e9),
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
            span.set_status(self._failed)
        span.end(end)

    def stop(self) -> None:
        """Send what is left, within a second: spans are worth no more, where nobody takes them.

        The library's own end goes through all its rounds of trying again.
        """
        ending = threading.Thread(target=self._provider.shutdown, name="otel-end", daemon=True)
        ending.start()
        ending.join(_LAST)
        if ending.is_alive():
            log.warning("the last spans are given up: the collector does not take them")


class Body:
    """The span of a body. text: what its runs carry, to be its children."""

    def __init__(self, span: Any, text: str, failed: Any) -> None:
        self._span, self.text, self._failed = span, text, failed

    def closing(self, reply: Callable[[Reply], None]) -> Callable[[Reply], None]:
        """The reply that ends the span."""

        def replied(answer: Reply) -> None:
            self._span.set_attribute("http.response.status_code", answer.status)
            if answer.status >= _ERROR:
                self._span.set_status(self._failed)
            self._span.end()
            reply(answer)

        return replied
