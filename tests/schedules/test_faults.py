"""Scheduled messages over kills and nodes: each is published once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from plugins.http import HttpPlugin
from plugins.schedules import SchedulesPlugin
from plugins.schedules.entry import DUE
from storage.records import PutRow
from tests.schedules.test_schedules import broker, left
from tests.support.broker import Broker
from tests.support.clocks import Clocks
from tests.support.cluster import Cluster, Node, cluster
from tests.support.laws_process import broker_process
from tests.support.until import until
from tests.support.wire import Client

PLUGINS: dict[str, Any] = {"schedules": {}, "http": {"bind": "127.0.0.1:0", "operator_file": ""}}
COUNT = 60


async def caller(node: Broker) -> httpx.AsyncClient:
    plugin = node.server.api.plugin(HttpPlugin)
    assert plugin is not None
    return httpx.AsyncClient(base_url="http://{}:{}/v1".format(*plugin.address), timeout=30)


def publishes(node: Broker) -> bool:
    plugin = node.server.api.plugin(SchedulesPlugin)
    assert plugin is not None
    return plugin.service.runner.active


async def runner_and_other(made: Cluster) -> tuple[Node, Node]:
    """The node that publishes, and one that does not."""
    await until(lambda: any(map(publishes, made.nodes)), "a node publishes what is scheduled")
    runner = next(node for node in made.nodes if publishes(node))
    return runner, next(node for node in made.nodes if node is not runner)


async def test_each_is_published_once_over_sigkill(url: str, tmp_path: Path) -> None:
    with broker_process(tmp_path, url, plugins={"schedules": {}}) as process:

        async def client(name: str, **connect: Any) -> Client:
            made = await Client.open(("127.0.0.1", process.port), 5)
            await made.connect(name, username=name, password=name.encode(), **connect)
            return made

        reader, writer = await client("reader", clean=False, expiry=3600), await client("writer")
        await reader.subscribe("a/#", options=1)
        topics = [f"a/{number}" for number in range(COUNT)]
        for number, topic in enumerate(topics):
            await writer.publish(f"$delayed/{0.5 + number / 20:.2f}/{topic}", b"x")
        seen = {(await reader.message()).topic for _ in range(5)}
        await asyncio.to_thread(process.restart)
        reader = await client("reader", clean=False, expiry=3600)
        while len(seen) < COUNT:
            seen.add((await reader.message()).topic)
    assert seen == set(topics)
    async with broker(url) as made:  # a device may be given twice what it had not acknowledged; stored it is once
        for topic in topics:
            assert await made.server.storage.conversation_bounds(topic) == (1, 1), topic
        await until(lambda: nothing_left(made))


async def test_who_was_killed_between_publishing_and_removing_publishes_nothing_again(url: str) -> None:
    """The rows are there again, as where a node died in between."""
    clocks = Clocks()
    async with broker(url, time=clocks.time) as made:
        reader = await made.durable("reader")
        await reader.subscribe("a", options=1)
        writer = await made.client("writer")
        await writer.publish("$delayed/10/a", b"x")
        (row,) = await made.server.storage.rows(DUE, "steady")
        clocks.pass_by(12)
        assert (await reader.message()).payload == b"x"
        await until(lambda: nothing_left(made))
        clocks.pass_by(1)  # a node that goes on does so later
        await made.server.api.commit([PutRow(row.table, row.part, row.key, row.value)], 10.0)
        await until(lambda: nothing_left(made), "it is removed again")
        await reader.quiet()
        assert await made.server.storage.conversation_bounds("a") == (1, 1)


async def nothing_left(made: Broker) -> bool:
    return await left(made.server.storage) == []


async def test_any_node_schedules_lists_and_cancels() -> None:
    clocks = Clocks()
    async with cluster(0, plugins=PLUGINS) as made:
        for _ in range(2):
            await made.start(clocks.time)
        _, other = await runner_and_other(made)
        reader = await other.durable("reader")
        await reader.subscribe("a/#", options=1)
        writer = await other.client("writer", 5)
        http = await caller(other)
        async with http:
            ids = []
            for number in range(4):
                body = {"topic": f"a/{number}", "payload": "x", "delay": 10}
                ids.append((await http.post("/schedules", json=body)).json()["id"])
            assert (await http.delete(f"/schedules/{ids[2]}")).status_code == 204
            await writer.publish("$delayed/10/a/5", b"x")
            clocks.pass_by(12)
            assert sorted([(await reader.message()).topic for _ in range(4)]) == ["a/0", "a/1", "a/3", "a/5"]
            assert (await http.delete(f"/schedules/{ids[0]}")).status_code == 404
            await reader.quiet()
            await until(lambda: nothing_left(other))


async def test_another_node_goes_on_after_one_that_is_killed() -> None:
    async with cluster(2, plugins=PLUGINS, errors=True) as made, asyncio.timeout(60):
        runner, other = await runner_and_other(made)
        reader, writer = await other.durable("reader"), await other.client("writer")
        await reader.subscribe("a/#", options=1)
        for number in range(COUNT):
            await writer.publish(f"$delayed/{0.2 + number / 20:.2f}/a/{number}", b"x")
        assert (await reader.message()).topic == "a/0"
        runner.freeze_after_commit()  # what it publishes next is stored, and it does not hear of that
        await until(lambda: runner.frozen)
        await runner.kill()
        topics = {"a/0"}
        while len(topics) < COUNT:
            topics.add((await reader.message()).topic)
        await reader.quiet()
        for topic in topics:
            assert await other.storage.conversation_bounds(topic) == (1, 1), topic
        await until(lambda: nothing_left(other))


async def test_a_message_of_no_policy_is_forgotten_once_it_was_published() -> None:
    """It leaves no row, though nothing of it is stored."""
    policies = {"persistence": {"url": "memory://", "policies": [{"filter": "live/#", "mode": "none"}]}}
    async with broker(plugins=policies) as made:
        reader, writer = await made.client("reader"), await made.client("writer")
        await reader.subscribe("live/#", options=1)
        await writer.publish("$delayed/0.2/live/a", b"x")
        assert (await reader.message()).payload == b"x"
        await until(lambda: nothing_left(made))
        assert await made.server.storage.conversation_bounds("live/a") == (1, 0)
