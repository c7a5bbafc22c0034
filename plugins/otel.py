"""OpenTelemetry: a span for each publish, from its arrival over the commit to its delivery.

Kept true: it is loaded only where the configuration names it, and where it is not the message path knows nothing of it.

- The parent is what the publisher says in the user properties ``traceparent`` and ``tracestate`` (W3C Trace Context). Without
  one the broker begins a trace, for the part of the publishes that ``ratio`` says.
- The user properties are stored and carried to the receivers as they came: the receivers' spans have the publisher's as
  parent, and the broker's span is their sibling. So what is stored is what was published, byte for byte.
- ``OTEL_…`` in the environment is honoured, and wins over the settings here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker import build
from broker.errors import StartError
from broker.hooks import GroupTimes, SpanPlugin
from broker.publication import Publication

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

log = logging.getLogger(__name__)

_CLOSING = 1.0
"""Seconds that what was recorded last gets to leave when the broker ends."""
_CARRIED = {"traceparent", "tracestate", "baggage"}


class Begun:
    """A publish that came: when (ns since 1970), and as part of what."""

    __slots__ = ("at", "context")

    def __init__(self, at: int, context: Context) -> None:
        self.at = at
        self.context = context


class OtelPlugin(SpanPlugin):
    """Records spans, and has the SDK export them from a thread of its own."""

    @dataclass
    class Config:
        """Settings under ``plugins: otel:``."""

        endpoint: str = ""
        """Where spans go by OTLP over HTTP, such as http://collector:4318/v1/traces; empty: where the environment says."""
        ratio: float = 0.01
        """The part of the publishes without a parent that are recorded."""

        def __post_init__(self) -> None:
            if not 0 <= self.ratio <= 1:
                raise ValueError(f"ratio {self.ratio:g} must be from 0 to 1")
            if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
                raise ValueError(f"endpoint {self.endpoint!r} must be a URL, such as http://localhost:4318/v1/traces")

    config: Config

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._provider, self._exporter = _provider(self.config)
        self._tracer: Tracer = self._provider.get_tracer("tideline", build.version())

    def received(self, publication: Publication, user_properties: Sequence[tuple[str, str]]) -> None:
        from opentelemetry import propagate

        carrier = {name: value for name, value in user_properties if name in _CARRIED}
        publication.span = Begun(time.time_ns(), propagate.extract(carrier))

    def finished(self, publications: Sequence[Publication], times: GroupTimes) -> None:
        base = time.time_ns() - int(time.perf_counter() * 1e9)
        for publication in publications:
            if isinstance(publication.span, Begun):
                self._record(publication, publication.span, times, base)

    def _record(self, publication: Publication, begun: Begun, times: GroupTimes, base: int) -> None:
        from opentelemetry import trace

        span = self._tracer.start_span(
            "publish", begun.context, trace.SpanKind.CONSUMER, start_time=begun.at, attributes=_attributes(publication)
        )
        if span.is_recording():
            inside = trace.set_span_in_context(span, begun.context)
            self._part("commit", inside, base, max(times.committing, (begun.at - base) / 1e9), times.committed)
            if publication.error is None:
                self._part("deliver", inside, base, times.committed, times.delivered)
            else:
                _refused(span, publication.error)
        span.end(base + int(times.delivered * 1e9))

    def _part(self, name: str, inside: Context, base: int, begins: float, ends: float) -> None:
        span = self._tracer.start_span(name, inside, start_time=base + int(begins * 1e9))
        span.end(base + int(ends * 1e9))

    async def close(self) -> None:
        """Send what was recorded last, within a second. The SDK may take half a minute, in a thread of its own."""
        done, loop = asyncio.Event(), asyncio.get_running_loop()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="otel", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), _CLOSING)
        except TimeoutError:
            log.warning("otel: the collector did not take the last spans in time")
            if self._exporter is not None:
                self._exporter.shutdown()


def _attributes(publication: Publication) -> dict[str, str | int]:
    """By the semantic conventions for messaging, and ours. No payload is among them."""
    message = publication.message
    return {
        "messaging.system": "mqtt",
        "messaging.operation.type": "process",
        "messaging.destination.name": message.topic,
        "messaging.client.id": message.device,
        "messaging.message.id": f"{message.id:016x}",
        "messaging.message.body.size": len(message.payload),
        "tideline.qos": message.qos,
        "tideline.seq": message.seq,
        "tideline.inboxes": len(publication.recipients),
    }


def _refused(span: Span, error: Exception) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, str(error)))


def _provider(config: OtelPlugin.Config) -> tuple[TracerProvider, SpanExporter | None]:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError:
        raise StartError("plugins.otel needs OpenTelemetry's SDK: pip install 'tideline[otel]'") from None
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({"service.version": build.version(), **({} if named else {"service.name": "tideline"})})
    sampler = None if "OTEL_TRACES_SAMPLER" in os.environ else ParentBased(TraceIdRatioBased(config.ratio))
    provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
    chosen = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    if chosen not in ("otlp", "none"):
        raise StartError(f"OTEL_TRACES_EXPORTER is {chosen!r}: must be otlp or none")
    if chosen == "none":
        return provider, None
    exporter = OTLPSpanExporter(endpoint=config.endpoint or None)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider, exporter
