"""$SYS as mosquitto's users know it."""

from __future__ import annotations

import math

import pytest

from broker.amqtt.api import ServerStatus
from broker.amqtt.plugin_host import BrokerEvents, PluginHost
from broker.counters import Counters
from plugins.sys_topics import Figures, Load
from tests.plugin_host.servers import PlainServer

PATH = "plugins.sys_topics.SysTopicsPlugin"

MOSQUITTO = """\
bytes/received bytes/sent clients/connected clients/disconnected clients/expired clients/maximum clients/total
messages/received messages/sent messages/stored publish/bytes/received publish/bytes/sent publish/messages/dropped
publish/messages/received publish/messages/sent subscriptions/count uptime load/messages/received/1min
load/messages/received/5min load/messages/sent/15min load/publish/received/1min load/publish/sent/1min
load/publish/dropped/1min load/bytes/received/1min load/bytes/sent/1min load/sockets/1min load/connections/1min
shared_subscriptions/count clients/active clients/inactive"""


def test_the_figures() -> None:
    counters = Counters(bytes_received=10, messages_received=3, publish_received_1=2, clients_connected=4)
    status = ServerStatus(clients_connected=2, clients_disconnected=5, clients_maximum=3, retained=7, storage_available=False)
    told = dict(Figures().changed(counters, status, 61, 10.0))
    assert all(f"$SYS/broker/{name}" in told for name in MOSQUITTO.split())
    assert "$SYS/broker/retained messages/count" in told
    expected = {
        "uptime": "61 seconds",
        "bytes/received": "10",
        "messages/received": "3",
        "publish/messages/received": "2",
        "clients/connected": "2",
        "clients/disconnected": "5",
        "clients/total": "7",
        "clients/maximum": "3",
        "retained messages/count": "7",
        "tideline/storage/state": "unavailable",
    }
    assert {name: told[f"$SYS/broker/{name}"] for name in expected} == expected


def test_only_what_changed_is_told_again() -> None:
    figures, counters = Figures(), Counters()
    first = dict(figures.changed(counters, ServerStatus(), 1, 10.0))
    assert len(first) > 50
    assert dict(figures.changed(counters, ServerStatus(), 1, 10.0)) == {}
    counters.bytes_sent = 5
    changed = dict(figures.changed(counters, ServerStatus(), 1, 10.0))
    assert changed["$SYS/broker/bytes/sent"] == "5"
    assert set(changed) == {"$SYS/broker/bytes/sent"} | {f"$SYS/broker/load/bytes/sent/{n}min" for n in (1, 5, 15)}


def test_load_averages_approach_the_rate_per_minute() -> None:
    load = Load()
    for second in range(1, 61):
        load.update(second * 10, 1.0)
    one, five, fifteen = load.averages
    assert one == pytest.approx(600 * (1 - math.exp(-1)))
    assert five == pytest.approx(600 * (1 - math.exp(-1 / 5)))
    assert fifteen == pytest.approx(600 * (1 - math.exp(-1 / 15)))
    for _ in range(600):
        load.update(600, 1.0)
    assert load.averages[0] < 0.1 < load.averages[2]


class TestPlugin:
    async def test_values_are_retained_and_need_no_storage(self) -> None:
        server = PlainServer()
        plugin_host = PluginHost({PATH: {"interval": 0.02}}, server)
        await plugin_host.fire_and_wait(BrokerEvents.PRE_START)
        await plugin_host.fire_and_wait(BrokerEvents.POST_START)
        try:
            assert (await server.until("$SYS/broker/version")).startswith(b"Tideline")
            assert await server.until("$SYS/broker/bytes/received") == b"0"
            server.counters.bytes_received = 42
            while await server.until("$SYS/broker/bytes/received") != b"42":
                server.published.clear()
            assert all(qos == 0 and retain and not durable for _, _, qos, retain, durable in server.published)
        finally:
            await plugin_host.fire_and_wait(BrokerEvents.PRE_SHUTDOWN)
            await plugin_host.close()
        assert server.counters.hook_errors == 0

    async def test_one_value_that_cannot_be_told_does_not_end_the_others(self, caplog: pytest.LogCaptureFixture) -> None:
        class Choosy(PlainServer):
            async def publish(self, topic: str, payload: bytes, **options: object) -> None:
                if topic.endswith("uptime"):
                    raise RuntimeError("not this one")
                await super().publish(topic, payload, **options)  # type: ignore[arg-type]

        server = Choosy()
        plugin_host = PluginHost({PATH: {"interval": 0.02}}, server)
        await plugin_host.fire_and_wait(BrokerEvents.POST_START)
        assert await server.until("$SYS/broker/tideline/events/dropped") == b"0"
        await plugin_host.close()
        assert "$SYS/broker/uptime could not be published" in caplog.text

    async def test_interval_0_tells_the_version_only(self) -> None:
        server = PlainServer()
        plugin_host = PluginHost({PATH: {"interval": "0"}}, server)
        await plugin_host.fire_and_wait(BrokerEvents.POST_START)
        await plugin_host.close()
        assert [topic for topic, *_ in server.published] == ["$SYS/broker/version"]
