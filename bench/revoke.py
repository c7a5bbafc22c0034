"""How long somebody who is shut out goes on: from the operator's request until the connection, stream or delivery has ended.

On one node, and on the second of two over MongoDB, where the first is asked.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import httpx

from bench import wire
from bench.api import address
from bench.cluster.nodes import Node
from bench.peers.base import PeerError
from bench.peers.mongo import Mongo
from bench.peers.tideline import Tideline
from bench.rounds import say
from bench.table import columns

BOUND = 1.0
"""Seconds that it may take."""
_PATIENCE = 15.0
_USER, _OTHER = "shut-out", "publisher"
_PASSWORD = secrets.token_urlsafe(16)
_TOPIC = "revoke/t"
_PLUGINS = """\
  accounts: {{}}
  acl: {{}}
  requests: {{}}
  http: {{bind: "127.0.0.1:0", operator_file: "{home}/operator.json"}}
"""

Timed = dict[str, list[float]]


class Alone(Tideline):
    """One node with users, rules and the HTTP API."""

    name = "tideline-revoke"

    def more_plugins(self) -> str:
        return _PLUGINS.format(home=self.home)


class OfTwo(Node):
    """The same over MongoDB."""

    name = "node-revoke"

    def more_plugins(self) -> str:
        return _PLUGINS.format(home=self.home)


class _Scene:
    """Who asks, at one node, and who is shut out, at the same or another."""

    def __init__(self, asked: Tideline, there: Tideline, stack: AsyncExitStack) -> None:
        self._port = there.port
        self._there, _ = address(there.home)
        url, secret = address(asked.home)
        headers = {"Authorization": f"Bearer {secret}"}
        self.operator = httpx.AsyncClient(base_url=url, headers=headers, timeout=_PATIENCE)
        self._user = httpx.AsyncClient(base_url=url, auth=(_USER, _PASSWORD), timeout=_PATIENCE)
        for client in (self.operator, self._user):
            stack.push_async_callback(client.aclose)

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.operator.request(method, path, **({} if body is None else {"json": body}))
        answer.raise_for_status()
        return answer.json() if answer.content else None

    async def login(self, user: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that is let in, as soon as the other node knows of the user."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(wire.connect(f"{user}-device", login=(user, _PASSWORD)))
            answer = await reader.read(4)
            if answer[:1] == bytes([wire.CONNACK]) and answer[3:4] == b"\0":
                return reader, writer
            writer.transport.abort()
            if time.monotonic() > deadline:
                raise PeerError(f"{user} is not let in: {answer.hex()}")
            await asyncio.sleep(0.1)

    async def token(self) -> tuple[str, str]:
        """(id, secret) of a token of the user."""
        answer = await self._user.post("/tokens", json={})
        answer.raise_for_status()
        told = answer.json()
        return str(told["id"]), str(told["token"])

    async def stream(self, token: str, begun: asyncio.Event) -> float:
        """When a stream of events ended."""
        headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
        deadline = time.monotonic() + _PATIENCE
        async with httpx.AsyncClient(base_url=self._there, headers=headers, timeout=_PATIENCE) as http:
            while True:
                async with http.stream("GET", "/sync?device=laptop") as answer:
                    if answer.status_code == 200:
                        async for _ in answer.aiter_lines():
                            begun.set()
                        return time.monotonic()
                if time.monotonic() > deadline:
                    raise PeerError(f"no stream begins: {answer.status_code}")
                await asyncio.sleep(0.1)


async def _ended(reader: asyncio.StreamReader) -> float:
    while await reader.read(1 << 16):
        pass
    return time.monotonic()


async def _user(scene: _Scene, timed: Timed) -> None:
    """A user is disabled: the connection ends, and a stream."""
    reader, writer = await scene.login(_USER)
    _, secret = await scene.token()
    begun = asyncio.Event()
    ends = asyncio.gather(_ended(reader), scene.stream(secret, begun))
    await begun.wait()
    asked = time.monotonic()
    await scene.ask("PATCH", f"/users/{_USER}", {"disabled": True})
    connection, stream = await ends
    writer.transport.abort()
    timed["a user is disabled: MQTT connection"].append(connection - asked)
    timed["a user is disabled: HTTP stream"].append(stream - asked)
    await scene.ask("PATCH", f"/users/{_USER}", {"disabled": False})


async def _token(scene: _Scene, timed: Timed) -> None:
    """A token is revoked: its stream ends."""
    _, writer = await scene.login(_USER)
    writer.transport.abort()
    id, secret = await scene.token()
    begun = asyncio.Event()
    ends = asyncio.create_task(scene.stream(secret, begun))
    await begun.wait()
    asked = time.monotonic()
    (await scene.operator.delete(f"/tokens/{id}", auth=(_USER, _PASSWORD))).raise_for_status()
    timed["a token is revoked: HTTP stream"].append(await ends - asked)


async def _rule(scene: _Scene, timed: Timed) -> None:
    """A rule forbids it: nothing is delivered any more."""
    reader, writer = await scene.login(_USER)
    publisher, publishing = await scene.login(_OTHER)
    writer.write(wire.subscribe(1, _TOPIC, qos=0))
    last = 0.0

    async def receive() -> None:
        nonlocal last
        while await reader.read(1 << 16):
            last = time.monotonic()

    async def publish() -> None:
        while True:
            publishing.write(wire.publish(_TOPIC, b"x"))
            await publisher.readexactly(4)
            await asyncio.sleep(0.005)

    tasks = [asyncio.create_task(receive()), asyncio.create_task(publish())]
    try:
        while not last or time.monotonic() - last > 0.1:
            await asyncio.sleep(0.01)
        asked = time.monotonic()
        await scene.ask("PUT", "/acl/rules/shut", {"deny": ["receive"], "topics": ["#"], "users": [_USER]})
        while time.monotonic() - max(last, asked) < 1.5:
            await asyncio.sleep(0.05)
        timed["a rule denies it: delivery"].append(max(0.0, last - asked))
        await scene.ask("DELETE", "/acl/rules/shut")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.transport.abort()
        publishing.transport.abort()


_WAYS: tuple[Callable[[_Scene, Timed], Awaitable[None]], ...] = (_user, _token, _rule)


async def _times(nodes: Sequence[Tideline], times: int) -> Timed:
    timed: Timed = {
        "a user is disabled: MQTT connection": [],
        "a user is disabled: HTTP stream": [],
        "a token is revoked: HTTP stream": [],
        "a rule denies it: delivery": [],
    }
    async with AsyncExitStack() as stack:
        scene = _Scene(nodes[0], nodes[-1], stack)
        for name in (_USER, _OTHER):
            await scene.ask("POST", "/users", {"name": name, "password": _PASSWORD})
        await scene.ask("PUT", "/acl/rules/all", {"allow": ["all"], "topics": ["#"]})
        for _ in range(times):
            for way in _WAYS:
                await way(scene, timed)
    return timed


def measure(times: int) -> dict[str, Timed]:
    """Seconds, by where and by what was done. Two nodes are left out where there is no MongoDB."""
    found: dict[str, Timed] = {}
    say("shutting people out of one node")
    alone = Alone()
    alone.start()
    try:
        found["one node"] = asyncio.run(_times([alone], times))
    finally:
        alone.stop()
    mongo = Mongo(in_memory=True)
    nodes: list[Tideline] = []
    try:
        mongo.start()
        say(f"shutting people out of one of two nodes ({mongo.version()})")
        url = mongo.url(f"tideline_bench_{uuid.uuid4().hex}", 0)
        for _ in range(2):
            nodes.append(OfTwo(url))
            nodes[-1].start()
        found["the other of two nodes"] = asyncio.run(_times(nodes, times))
    except (PeerError, ImportError) as error:
        say(f"two nodes: not measured: {error}")
    finally:
        for node in nodes:
            node.stop()
        mongo.stop()
    return found


def table(found: dict[str, Timed]) -> str:
    """Median and longest of each, in milliseconds."""
    rows = [["until somebody who is shut out is out, ms", "where", "median", "longest"]]
    late = False
    for where, timed in found.items():
        for what, seconds in timed.items():
            late = late or max(seconds) > BOUND
            rows.append([what, where, f"{statistics.median(seconds) * 1000:.0f}", f"{max(seconds) * 1000:.0f}"])
    verdict = f"! more than {BOUND:g} s" if late else f"all within {BOUND:g} s"
    return f"{columns(rows)}\n{verdict}"
