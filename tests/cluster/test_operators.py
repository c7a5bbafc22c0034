"""What an operator sees of a cluster, and does: listing nodes, having one leave, and what a health check is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from broker.cli.main import main
from broker.packets import ReasonCode
from broker.packets.model import Disconnect
from broker.packets.properties import Property
from plugins.http import HttpPlugin
from storage.cluster import GONE
from tests.support.broker import running
from tests.support.cluster import Node, cluster
from tests.support.until import until

HTTP = {"http": {"bind": "127.0.0.1:0", "operator_file": ""}}


@asynccontextmanager
async def caller(node: Node) -> AsyncIterator[httpx.AsyncClient]:
    plugin = node.server.api.plugin(HttpPlugin)
    assert plugin is not None
    async with httpx.AsyncClient(base_url="http://{}:{}/v1".format(*plugin.address), timeout=30) as client:
        yield client


async def health(node: Node) -> tuple[int, str]:
    async with caller(node) as client:
        answer = await client.get("/health")
    return answer.status_code, answer.json()["status"]


def trouble(node: Node) -> str:
    assert node.server.cluster is not None
    return node.server.cluster.trouble


async def test_every_node_lists_all_of_them() -> None:
    async with cluster(2, plugins=HTTP) as made:
        one, other = made.nodes
        await one.client("a")
        await one.client("b")
        await other.client("c")

        async def counted() -> bool:
            async with caller(other) as client:
                listed = (await client.get("/cluster")).json()["nodes"]
            return [(node["state"], node["sessions"], node["me"]) for node in listed] == [("up", 2, False), ("up", 1, True)]

        await until(counted)
        async with caller(other) as client:
            for node in (await client.get("/cluster")).json()["nodes"]:
                assert node["beat_age"] < made.database.lease * 1000
                assert node["lag"] <= node["routes"] + node["lag"]
                assert node["name"]


@pytest.mark.parametrize("reference", ["other.example:1883", ""])
async def test_a_node_that_leaves_sends_its_clients_elsewhere_and_ends_well(reference: str) -> None:
    async with cluster(2, plugins=HTTP, mqtt={"server_reference": reference}) as made:
        one, other = made.nodes
        clients = [await one.client(f"c-{number}", 5) for number in range(150)]
        assert await health(one) == (200, "ok")
        async with caller(other) as client:
            told = await client.post(f"/cluster/{made.database.nodes[one.token].number}/leave", json={})
            assert told.status_code == 202
            assert told.json()["state"] == "leaving"
        for client_ in clients:
            (packet,) = await client_.closed()
            assert isinstance(packet, Disconnect)
            assert packet.reason == ReasonCode.USE_ANOTHER_SERVER
            assert packet.properties.get(Property.SERVER_REFERENCE, "") == reference
        await one.server.serve_forever()
        assert one.server.failure == ""
        with pytest.raises(OSError):
            await one.socket()
        token = one.token
        await one.server.stop()
        assert made.database.nodes[token].state == GONE


async def test_health_says_that_a_node_leaves_or_cannot_be_heard() -> None:
    async with cluster(1, plugins=HTTP, errors=True) as made:  # alone, as another node would mark it dead
        one = made.nodes[0]
        await one.client("slow", 4)
        one.freeze()
        await until(lambda: trouble(one) == "unheard")
        assert await health(one) == (503, "unheard")
        one.thaw()

        async def heard() -> bool:  # and not once only: a slow machine's node may be late again in the next moment
            return await health(one) == (200, "ok")

        await until(heard)
        async with caller(one) as client:
            assert (await client.post("/cluster/me/leave", json={})).status_code == 202
            await until(lambda: trouble(one) == "leaving")
            assert (await client.get("/health")).json() == {"status": "leaving"}
        await one.server.serve_forever()


async def test_what_is_no_node_and_no_cluster_is_said() -> None:
    async with cluster(1, plugins=HTTP) as made, caller(made.nodes[0]) as client:
        answer = await client.post("/cluster/17/leave", json={})
        assert answer.status_code == 404
        assert answer.json()["detail"].startswith("no node '17': there is 0 (")
    async with running(plugins=HTTP) as alone, caller(Node(alone.server)) as client:
        for answer in (await client.get("/cluster"), await client.post("/cluster/0/leave", json={})):
            assert answer.status_code == 404
            assert answer.json()["detail"] == "this broker's storage serves one node: there is no cluster"


async def test_only_the_operator_may(tmp_path: Path) -> None:
    file = {"http": {"bind": "127.0.0.1:0", "operator_file": str(tmp_path / "operator.json")}}
    listeners = [{"name": "tcp", "type": "tcp", "bind": "0.0.0.0:0"}]
    async with cluster(1, plugins=file, listeners=listeners) as made, caller(made.nodes[0]) as client:
        assert (await client.get("/cluster")).status_code in (401, 403)
        assert (await client.post("/cluster/0/leave", json={})).status_code in (401, 403)
        secret = json.loads((tmp_path / "operator.json").read_text())["secret"]
        assert (await client.get("/cluster", headers={"Authorization": f"Bearer {secret}"})).status_code == 200


async def test_the_command(tmp_path: Path) -> None:
    """`tideline cluster`, against the node of this machine."""
    operator = tmp_path / "operator.json"
    config = tmp_path / "config.yaml"
    config.write_text(f"plugins:\n  persistence: {{url: 'memory://'}}\n  sync: {{}}\n  http: {{operator_file: {operator}}}\n")

    async def command(*words: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, ["cluster", *words, "-c", str(config)])

    missing = await command()
    assert missing.exit_code == 3
    assert "no running broker was found" in missing.output
    http = {"http": {"bind": "127.0.0.1:0", "operator_file": str(operator)}}
    async with cluster(1, plugins=http) as made:
        other = await made.start(plugins={"http": {**http["http"], "operator_file": ""}})
        table = await command()
        assert table.exit_code == 0, table.output
        titles, first, second = table.output.splitlines()
        assert titles.split()[:4] == ["node", "name", "state", "sessions"]
        assert first.endswith("this one")
        assert second.split()[:3] == ["1", "memory-1", "up"]
        lines = [json.loads(line) for line in (await command("--json")).output.splitlines()]
        assert [line["me"] for line in lines] == [True, False]
        wrong = await command("leave", "nobody")
        assert wrong.exit_code == 1
        assert "no node 'nobody': there is 0 (memory-0), 1 (memory-1)" in wrong.output
        left = await command("leave", "memory-1")
        assert left.exit_code == 0
        assert "node 1 (memory-1) sends its 0 clients elsewhere, and ends" in left.output
        await other.server.serve_forever()
        assert other.server.failure == ""
