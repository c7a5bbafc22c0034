"""The counts over SIGKILL, in either storage: what they say at once after the start, and once everybody has come back."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from broker.packets import matches
from broker.packets.model import PingReq, PingResp, PubAck, Publish
from storage.factory import open_url
from tests.receipts.test_recount import FILTERS, TOPICS
from tests.support.laws_process import broker_process, free_port
from tests.support.seeds import seeds
from tests.support.storages import storage_url
from tests.support.until import until
from tests.support.wire import Client

GROUP = "group/#"


class Reader:
    """A user with one device: what came, and what it has acknowledged, by payload."""

    def __init__(self, name: str, filter: str) -> None:
        self.name, self.filter = name, filter
        self.client: Client | None = None
        self.acknowledged: set[str] = set()
        self.unanswered: list[Publish] = []
        self.read: dict[str, int] = {}

    async def come(self, port: int) -> None:
        new = self.client is None
        self.client, self.unanswered = await connected(port, self.name), []
        if new:
            await self.client.subscribe(self.filter, options=1)

    async def take(self, choice: random.Random, most: int = 1000) -> None:
        """Take what has come, and acknowledge up to so many, in any order."""
        assert self.client is not None
        self.client.send(PingReq())
        while not isinstance(packet := await self.client.receive(), PingResp):
            assert isinstance(packet, Publish)
            self.unanswered.append(packet)
        choice.shuffle(self.unanswered)
        for _ in range(min(most, len(self.unanswered))):
            packet = self.unanswered.pop()
            self.client.send(PubAck(packet.packet_id))
            self.acknowledged.add(packet.payload.decode())

    def due(self, topic: str) -> bool:
        return matches(self.filter, topic)


async def connected(port: int, name: str) -> Client:
    client = await Client.open(("127.0.0.1", port), 5)
    await client.connect(name, username=name, password=name.encode(), clean=False, expiry=3600)
    return client


def caller(http: int, name: str) -> httpx.AsyncClient:
    """A new connection for each request: the broker closes one that is idle for seconds, and a busy machine lets it be idle."""
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{http}/v1", auth=(name, name), timeout=60, limits=limits)


async def whole(http: httpx.AsyncClient, id: str) -> tuple[dict[str, int], dict[str, Any], set[str]]:
    """The ledger of a message, its pages added up: the counts of users, each user's device, and who is told to have read it."""
    after: str | None = ""
    totals: dict[str, int] = {}
    devices: dict[str, Any] = {}
    read: set[str] = set()
    while after is not None:
        answer = await http.get(f"/messages/{id}/ledger", params={"after": after, "limit": 2})
        page = answer.json()
        for name, count in page["counts"]["users"].items():
            totals[name] = totals.get(name, 0) + count
        for holder in page["holders"]:
            devices |= {device["device"]: device["state"] for device in holder["devices"]}
            read |= {holder["user"][2:]} if holder["read"] else set()
        after = page["next"]
    return totals, devices, read


class Stored(NamedTuple):
    """A message as storage has it, and whose inboxes have it: all of them are looked through."""

    id: str
    seq: int
    inboxes: set[str]


async def recount(url: str) -> dict[tuple[str, str], Stored]:
    """All messages by topic and payload, while no broker runs."""
    storage = open_url(url, read_only=True)
    await storage.open()
    found: dict[tuple[str, str], Stored] = {}
    of: dict[int, set[str]] = {}
    async for inbox, _, head in storage.inboxes():
        for entry in await storage.read_inbox(inbox, 0, head or 1):
            if entry.message is not None and not entry.target:
                of.setdefault(entry.message.id, set()).add(inbox)
    for topic in TOPICS:
        for message in await storage.read_conversation(topic, limit=500):
            stored = Stored(f"{message.id:016x}", message.seq, of.get(message.id, set()))
            found[topic, message.payload.decode()] = stored
    await storage.close()
    return found


ALWAYS = [("sqlite", "write", 7), ("mongodb", "read", 7)]
MORE = product(("sqlite", "mongodb"), ("write", "read"), range(1, 4))


@pytest.mark.parametrize(("kind", "fanout", "seed"), seeds(*ALWAYS, more=MORE))
async def test_the_counts_equal_a_recount_over_kills(tmp_path: Path, kind: str, fanout: str, seed: int) -> None:
    async with storage_url(kind, tmp_path) as url:
        await over_kills(tmp_path, url, fanout, random.Random(seed))


async def over_kills(folder: Path, url: str, fanout: str, choice: random.Random) -> None:
    port = free_port()
    persistence = {"policies": [{"filter": GROUP, "mode": "sync", "fanout": fanout}]}
    plugins = {"http": {"bind": f"127.0.0.1:{port}", "operator_file": ""}, "requests": {}, "receipts": {}}
    readers = [Reader(f"reader{number}", choice.choice(FILTERS)) for number in range(5)]
    published: list[tuple[str, str]] = []
    with broker_process(folder, url, persistence=persistence, plugins=plugins) as broker:
        for _ in range(2):
            writer = await connected(broker.port, "writer")
            for reader in readers:
                await reader.come(broker.port)
            for _ in range(40):
                await act(choice, port, writer, readers, published)
            await asyncio.to_thread(broker.kill)
            stored = await recount(url)
            assert stored.keys() == set(published)
            await asyncio.to_thread(broker.start)
            some = choice.sample(published, 5)
            async with caller(port, "writer") as http:
                await until(partial(answers, http))
                for one in some:
                    await agree(http, fanout, one, stored[one], readers)
                for reader in readers:
                    await reader.come(broker.port)
                for one in some:
                    await until(partial(all_have, choice, http, one, stored[one], readers))


async def answers(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/me")).status_code == 200
    except httpx.HTTPError:
        return False


async def act(
    choice: random.Random, port: int, writer: Client, readers: list[Reader], published: list[tuple[str, str]]
) -> None:
    """Something happens: a message is published, a device acknowledges some, a user reads."""
    reader, topic = choice.choice(readers), choice.choice(TOPICS)
    what = choice.randrange(4)
    if what < 2 or not published:
        published.append((topic, str(len(published))))
        await writer.publish(topic, published[-1][1].encode(), 1)
    elif what == 2:
        await reader.take(choice, 3)
    else:
        async with caller(port, reader.name) as http:
            position = choice.randrange(1, 9)
            answer = await http.put(f"/conversations/{topic}/position", json={"position": position})
            while answer.status_code == 503:  # on a busy machine: whether it was marked is then not known, so it is said again
                answer = await http.put(f"/conversations/{topic}/position", json={"position": position})
            assert answer.status_code in (200, 404), answer.text
            if answer.status_code == 200:  # else none of it came to the user yet
                reader.read[topic] = max(reader.read.get(topic, 0), answer.json()["position"])


async def agree(http: httpx.AsyncClient, fanout: str, what: tuple[str, str], message: Stored, readers: list[Reader]) -> None:
    """Who has it, and who has read it, exactly; and that nobody is said to have acknowledged what it did not: what a device
    acknowledged within a second before the kill may be given to it again."""
    topic, payload = what
    totals, devices, read = await whole(http, message.id)
    due = {reader.name for reader in readers if reader.due(topic)}
    assert {name for name, state in devices.items() if state != "not_due"} == due, what
    in_channel = fanout == "read" and matches(GROUP, topic)
    assert message.inboxes == ({f"r/{GROUP}"} if in_channel and due else {f"u/{name}" for name in due}), what
    assert totals["stored"] == len(due), what
    acknowledged = {name for name, state in devices.items() if state == "acknowledged"}
    assert acknowledged <= {reader.name for reader in readers if payload in reader.acknowledged}, what
    assert totals["acknowledged"] == len(acknowledged), what
    assert read == {r.name for r in readers if r.name in due and r.read.get(topic, 0) >= message.seq}, what
    assert totals["read"] == len(read), what


async def all_have(
    choice: random.Random, http: httpx.AsyncClient, what: tuple[str, str], message: Stored, readers: list[Reader]
) -> bool:
    """Whether all whom it is due to have acknowledged it, in the counts as in their own."""
    for reader in readers:
        await reader.take(choice)
    due = [reader for reader in readers if reader.due(what[0])]
    totals, devices, _ = await whole(http, message.id)
    states = [state for state in devices.values() if state != "not_due"]
    own = sum(what[1] in reader.acknowledged for reader in due)
    return totals["acknowledged"] == own == len(due) and set(states) <= {"acknowledged"}
