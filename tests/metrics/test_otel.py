"""Spans of publishes, as a collector gets them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from broker.errors import StartError
from broker.packets import Property
from tests.support.broker import running

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(ThreadingHTTPServer):
    """Takes spans by OTLP over HTTP."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/traces"

    @property
    def spans(self) -> list[Span]:
        scopes = [scope for request in self.requests for one in request.resource_spans for scope in one.scope_spans]
        return [span for scope in scopes for span in scope.spans]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_EXPORTER", "OTEL_SERVICE_NAME", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


def said(flags: str) -> dict[int, Any]:
    return {Property.USER_PROPERTY: [("traceparent", f"00-{TRACE}-{PARENT}-{flags}"), ("tracestate", "a=1"), ("mine", "x")]}


async def test_a_span_for_each_publish_below_its_publishers(collector: Collector) -> None:
    """And what the receivers get is what was published."""
    async with running(plugins={"otel": {"endpoint": collector.endpoint, "ratio": 0}}) as broker:
        receiver = await broker.client("receiver", 5)
        await receiver.subscribe("a", options=1)
        publisher = await broker.client("publisher", 5)
        await publisher.publish("a", b"secret", properties=said("01"))
        got = await receiver.message()
        assert got.properties == said("01")
        await publisher.publish("a", b"secret", properties=said("00"))
        await publisher.publish("a", b"secret")
        await receiver.messages(2)
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"publish", "commit", "deliver"}
    assert len(collector.spans) == 3, "the others are not sampled, by their publisher or by the ratio"
    publish, commit, deliver = spans["publish"], spans["commit"], spans["deliver"]
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert publish.parent_span_id.hex() == PARENT
    assert publish.trace_state == "a=1"
    assert {commit.parent_span_id, deliver.parent_span_id} == {publish.span_id}
    begins = [publish.start_time_unix_nano, commit.start_time_unix_nano, deliver.start_time_unix_nano]
    assert begins == sorted(begins)
    assert commit.end_time_unix_nano <= deliver.end_time_unix_nano <= publish.end_time_unix_nano
    told = {one.key: one.value.string_value or one.value.int_value for one in publish.attributes}
    assert told["messaging.destination.name"] == "a"
    assert (told["messaging.client.id"], told["messaging.message.body.size"], told["tideline.seq"]) == ("publisher", 6, 1)
    assert b"secret" not in collector.requests[0].SerializeToString()
    resource = {one.key: one.value.string_value for one in collector.requests[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "tideline"


async def test_the_broker_begins_traces_and_the_environment_counts(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "broker-7")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.endpoint)
    async with running(plugins={"otel": {"ratio": 1}}) as broker:
        publisher = await broker.client("publisher")
        assert await publisher.publish("a", b"", 2) == 0
        await publisher.publish("a/$", b"x" * 10, 1)
    publishes = [span for span in collector.spans if span.name == "publish"]
    assert len({span.trace_id for span in publishes}) == 2
    assert not any(span.parent_span_id for span in publishes)
    resource = {one.key: one.value.string_value for one in collector.requests[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "broker-7"


async def test_a_collector_that_is_away_holds_nothing_up() -> None:
    """The broker ends within the time that `running` gives it; the SDK alone would wait for half a minute."""
    async with running(plugins={"otel": {"endpoint": "http://127.0.0.1:9/v1/traces", "ratio": 1}}) as broker:
        publisher = await broker.client("publisher")
        await publisher.publish("a", b"x")


async def test_without_it_the_message_path_knows_nothing_of_it() -> None:
    async with running() as broker:
        assert broker.server.spans is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 2}, "ratio: 2 must be from 0 to 1"),
        ({"endpoint": "collector:4318"}, "must be a URL, such as http://localhost"),
    ],
)
async def test_wrong_settings_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(StartError, match=words):
        async with running(plugins={"otel": options}):
            pass


async def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(StartError, match=r"pip install 'tideline\[otel\]'"):
        async with running(plugins={"otel": {}}):
            pass
