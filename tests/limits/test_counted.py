"""What one client may do, what it hears where it does more, and that each limit is counted, and named in docs/limits.md."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from broker.counters import Counters
from broker.packets.codes import ReasonCode as R
from broker.packets.encoder import encode
from broker.packets.model import Connect, Disconnect, PubAck, Publish
from plugins.http import HttpPlugin
from tests.support.broker import running
from tests.support.until import until

ROOT = Path(__file__).resolve().parents[2]
NOT_STORED = {"persistence": {"url": "memory://", "policies": [{"filter": "live/#", "mode": "none"}]}}


def test_each_limit_is_documented_with_its_counter() -> None:
    text = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    counted = {field.name for field in dataclasses.fields(Counters) if field.name.startswith("limit_")}
    assert set(re.findall(r"`(limit_\w+)`", text)) == counted


@pytest.mark.parametrize("limits", [{"publish_rate": 100.0}, {"publish_bytes": 1000}], ids=["messages", "bytes"])
async def test_who_publishes_too_much_is_read_more_slowly_and_loses_nothing(limits: dict[str, Any]) -> None:
    """Its debt is paid in time alone: a keep alive of one second does not end it meanwhile (law 6)."""
    async with running(limits={**limits, "publish_burst": "500ms"}) as broker:
        client, reader = await broker.client("greedy", keep_alive=1), await broker.client("reader")
        await reader.subscribe("t", options=1)
        began = time.monotonic()
        client.send(*(Publish("t", bytes(10), 1, packet_id=number) for number in range(1, 301)))
        assert [(await client.expect(PubAck)).packet_id for _ in range(300)] == list(range(1, 301))
        await client.ping()  # which is not read before the debt is paid
        assert time.monotonic() - began >= 2.4
        assert len(await reader.messages(300)) == 300
        counters = broker.server.counters
        assert (counters.limit_publish_rate > 0, counters.limit_publish_bytes > 0) == (
            "publish_rate" in limits,
            "publish_bytes" in limits,
        )
        assert counters.publish_dropped == counters.keep_alive_timeouts == 0


async def test_or_is_disconnected_where_that_is_said(version: int) -> None:
    async with running(limits={"publish_rate": 10.0, "publish_over": "disconnect"}) as broker:
        client = await broker.client("greedy", version)
        client.send(*(Publish("t", b"x", 0) for _ in range(60)))
        told = [packet.reason for packet in await client.closed() if isinstance(packet, Disconnect)]
        assert told == ([R.MESSAGE_RATE_TOO_HIGH] if version == 5 else [])
        assert broker.server.counters.limit_publish_rate == 1


async def test_a_session_has_so_many_filters(caplog: pytest.LogCaptureFixture) -> None:
    async with running(mqtt={"max_subscriptions": 2}) as broker:
        client = await broker.client("c", 5)
        assert await client.subscribe("a", "b", "c", "d") == [0, 0, R.QUOTA_EXCEEDED, R.QUOTA_EXCEEDED]
        assert broker.server.counters.limit_subscriptions == 2
        assert "'c' at 127.0.0.1" in caplog.text
        assert "max_subscriptions 2" in caplog.text


async def test_unacknowledged_messages_and_packets_that_are_too_large() -> None:
    async with running(mqtt={"receive_maximum": 2, "max_packet_size": 1024, "inflight_window": 2}) as broker:
        counters = broker.server.counters
        reader = await broker.client("reader", 5)
        await reader.subscribe("t", options=1)
        sender = await broker.client("sender", 5)
        for _ in range(4):
            await sender.publish("t")
        first = [await reader.message(finish=False) for _ in range(2)]
        assert counters.limit_inflight > 0
        reader.send(*(PubAck(message.packet_id) for message in first))
        await reader.messages(2)
        async with broker.held():
            sender.send(*(Publish("t", b"", 1, packet_id=number) for number in (1, 2, 3)))
            assert [packet.reason for packet in await sender.closed()] == [R.RECEIVE_MAXIMUM_EXCEEDED]  # type: ignore[union-attr]
        large = await broker.client("large", 5)
        large.send(Publish("t", bytes(2000), 0))
        assert [packet.reason for packet in await large.closed()] == [R.PACKET_TOO_LARGE]  # type: ignore[union-attr]
        assert (counters.limit_receive_maximum, counters.limit_packet_size) == (1, 1)


async def test_a_websocket_message_that_is_too_large_is_told_of_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with running(listeners=[{"name": "ws", "type": "ws", "bind": "127.0.0.1:0"}]) as broker:
        url = "ws://{}:{}/mqtt".format(*broker.server.addresses["ws"])
        async with connect(url, subprotocols=[Subprotocol("mqtt")]) as client:
            await client.send(encode(Connect("large", version=5), 5))
            await client.recv()
            await client.send(bytes(1 << 20) + b"x")
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1009
        assert broker.server.counters.limit_packet_size == 1
        assert "closing 'large' at 127.0.0.1" in caplog.text
        assert "raise mqtt.max_packet_size to accept it" in caplog.text


@pytest.mark.parametrize("qos", [0, 1])
async def test_what_nothing_stores_is_not_queued_for_who_does_not_read(qos: int) -> None:
    async with running(plugins=NOT_STORED) as broker:
        deaf = await broker.socket(5, receive_buffer=4096)
        await deaf.connect("deaf")
        await deaf.subscribe("live/#", options=qos)
        deaf.pause()
        sender, counters = await broker.client("sender"), broker.server.counters

        async def published() -> int:
            await sender.publish("live/t", bytes(30_000), qos)
            return counters.limit_queued_bytes

        await until(published)
        if qos:
            assert counters.slow_disconnects == 1
            assert broker.server.sessions.named("deaf") == []
        else:
            assert counters.publish_dropped > 0
            deaf.resume()
            await deaf.message()


async def test_http_requests_and_bodies() -> None:
    options = {"bind": "127.0.0.1:0", "operator_file": "", "rate_per_address": 0.01}
    async with running(plugins={"plugins.http.HttpPlugin": options}, mqtt={"max_packet_size": 1024}) as broker:
        api = broker.server.api.plugin(HttpPlugin)
        assert api is not None
        async with httpx.AsyncClient(base_url="http://{}:{}".format(*api.address)) as caller:
            large = await caller.post("/v1/conversations/t/messages", json={"payload": "x" * 100_000})
            assert (large.status_code, broker.server.counters.limit_http_body) == (413, 1)
            later = await caller.get("/v1/me")
        assert (later.status_code, later.json()["type"]) == (429, "urn:tideline:too-many")
        assert 1 <= int(later.headers["retry-after"]) <= 100
        assert broker.server.counters.limit_http_rate == 1
