"""Reactions: once for each user, message and emoji, counted in the history, and taken back."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import quote

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

import plugins.recall.reacting as reacting_module
from broker.packets.properties import Property
from plugins.reaction_rows import COUNTS, GIVEN, LONGEST, Given, counted, given_key, given_to, place, rows_of
from plugins.recall.asked import MOST as ASKED_MOST
from plugins.recall.tidying import tidy
from storage.records import PutRow
from tests.http.conftest import Site
from tests.recall.conftest import NO_SUBSCRIBERS, NOT_AUTHORIZED, SPECIFIC, TOPIC, ids_of
from tests.support.cluster import cluster
from tests.support.paho_client import PahoClient
from tests.support.until import until
from tests.support.wire import Client

HEART, THUMB = "❤️", "👍🏽"


async def react(client: Client, to: int, text: str | bytes, *, back: bool = False) -> int:
    name = "tideline-unreacts" if back else "tideline-reacts"
    payload = text.encode() if isinstance(text, str) else text
    return await client.publish(TOPIC, payload, properties={Property.USER_PROPERTY: [(name, f"{to:016x}")]})


async def counts(broker: Site, **query: Any) -> list[dict[str, int]]:
    answer = await broker.caller().get(f"/conversations/{TOPIC}/messages", params={"order": "oldest", **query})
    return [message["reactions"] for message in answer.json()["messages"]]


async def test_reactions_are_counted_once_for_each_user(chat: Site) -> None:
    """Over MQTT and HTTP; taken back, and by a recall of the message that gave them."""
    ann, bob = await chat.client("ann", 5), await chat.client("bob", 5)
    await ann.publish(TOPIC, b"one")
    await ann.publish(TOPIC, b"two")
    one, two = await ids_of(chat)
    for client in (ann, bob, bob):
        assert await react(client, two, HEART) == NO_SUBSCRIBERS
    assert await react(bob, two, THUMB) == NO_SUBSCRIBERS
    assert await counts(chat, limit=2) == [{}, {HEART: 2, THUMB: 1}]
    assert await counts(chat, after=1, limit=1) == [{HEART: 2, THUMB: 1}]
    caller = chat.caller()
    given = (await caller.get(f"/messages/{two:016x}/reactions")).json()["reactions"]
    assert [(g["user"], g["reaction"]) for g in given] == [("c/ann", HEART), ("c/bob", HEART), ("c/bob", THUMB)]
    assert await react(bob, two, HEART, back=True) == NO_SUBSCRIBERS
    assert await react(ann, two, THUMB, back=True) == NO_SUBSCRIBERS  # which she never gave
    assert await counts(chat, limit=2) == [{}, {HEART: 1, THUMB: 1}]
    done = await caller.put(f"/messages/{one:016x}/reactions/{HEART}", json={}, params={"user": "c/eve"})
    assert done.status_code == 200
    assert await counts(chat, limit=1) == [{HEART: 1}]
    done = await caller.delete(f"/messages/{one:016x}/reactions/{HEART}", params={"user": "c/eve"})
    assert done.status_code == 200
    hers = (await ids_of(chat))[2]
    recall: dict[int, Any] = {Property.USER_PROPERTY: [("tideline-recalls", f"{hers:016x}")]}
    assert await ann.publish(TOPIC, properties=recall) == NO_SUBSCRIBERS
    assert await counts(chat, limit=2) == [{}, {THUMB: 1}]
    assert (await caller.get(f"/messages/{two:016x}")).json()["reactions"] == {THUMB: 1}


async def _is(shown: Callable[[], Awaitable[Any]], expected: Any) -> bool:
    return bool(await shown() == expected)


async def test_a_repeat_gives_nothing_and_counts_for_nothing(chat: Site) -> None:
    """Also where it comes together with others, that are counted."""
    http = chat.caller()

    def named(name: str, text: str, says: str = "tideline-reacts") -> dict[str, Any]:
        return {"topic": TOPIC, "payload": text, "properties": [[says, id]], "message_id": name}

    async def shown() -> tuple[dict[str, int], set[str]]:
        given = (await http.get(f"/messages/{id}/reactions")).json()["reactions"]
        return (await http.get(f"/messages/{id}")).json()["reactions"], {one["reaction"] for one in given}

    id = (await http.post("/messages", json={"topic": TOPIC, "payload": "one"})).json()["id"]
    for one in (named("a", HEART), named("b", HEART, "tideline-unreacts")):
        assert (await http.post("/messages", json=one)).status_code == 201
    for together, expected in (
        ([named("a", HEART), named("c", THUMB)], {THUMB}),
        ([named("a", HEART), named("d", HEART)], {THUMB, HEART}),
        ([named("b", HEART, "tideline-unreacts"), named("e", "1")], {THUMB, HEART, "1"}),
        ([named("b", HEART, "tideline-unreacts"), named("f", HEART, "tideline-unreacts")], {THUMB, "1"}),
    ):
        assert (await http.post("/messages", json=together)).is_success
        counted = dict.fromkeys(expected, 1)
        await until(partial(_is, shown, (counted, expected)))


async def test_what_is_recalled_or_removed_has_none(chat: Site) -> None:
    ann = await chat.client("ann", 5)
    for text in (b"one", b"two"):
        await ann.publish(TOPIC, text)
    one, two = await ids_of(chat)
    for to in (one, two):
        await react(ann, to, HEART)
    recall: dict[int, Any] = {Property.USER_PROPERTY: [("tideline-recalls", f"{two:016x}")]}
    await ann.publish(TOPIC, properties=recall)
    assert await counts(chat, limit=2) == [{HEART: 1}, {}]
    storage = chat.server.storage
    assert [row.key[:16] for row in await storage.rows(GIVEN, TOPIC)] == [f"{1:016d}"]
    assert await react(ann, two, HEART) == SPECIFIC
    far = chat.server.time.now() + 365 * 86_400_000
    assert await storage.prune_conversation(TOPIC, 2, now=far) == 1
    assert await tidy(chat.server.api) == 2
    assert await storage.rows(GIVEN, TOPIC) + await storage.rows(COUNTS, TOPIC) == []


async def test_a_recall_of_many_reads_little(chat: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far away storage is: as many reads, one after the other, would add up to more than a hook's time."""
    ann = await chat.client("ann", 5)
    for number in range(ASKED_MOST):
        await ann.publish(TOPIC, b"%d" % number)
    ids = await ids_of(chat)
    for one in (ids[0], ids[60], ids[-1]):
        await react(ann, one, HEART)
        await react(ann, one, THUMB)
    storage, reads = chat.server.storage, 0
    real = storage.rows

    async def rows(*args: Any, **page: Any) -> Any:
        nonlocal reads
        reads += 1
        return await real(*args, **page)

    monkeypatch.setattr(storage, "rows", rows)
    pairs = [("tideline-recalls", f"{one:016x}") for one in ids]
    assert await ann.publish(TOPIC, b"", properties={Property.USER_PROPERTY: pairs}) == NO_SUBSCRIBERS
    assert reads <= 5
    assert [await real(table, TOPIC) for table in (GIVEN, COUNTS)] == [[], []]


@pytest.mark.parametrize("rows", [1, 7, 450])
async def test_rows_of_many_messages(tour: Site, rows: int) -> None:
    """Whatever lies between them, and in however many reads."""
    storage, dice = tour.server.storage, random.Random(rows)
    keys = {f"{dice.randrange(1, 60):016d} user\n{n}" for n in range(rows)}
    await storage.commit([PutRow(GIVEN, TOPIC, key, b"") for key in sorted(keys)])
    for count in (0, 1, 2, 30, 59):
        wanted = dice.sample(range(1, 60), count)
        found = await rows_of(storage, GIVEN, TOPIC, wanted)
        assert {seq: [row.key for row in of] for seq, of in found.items()} == {
            seq: sorted(key for key in keys if int(key[:16]) == seq) for seq in wanted
        }


async def test_a_count_that_another_node_overtakes_is_made_again(tour: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """That one's reaction is stored when this node has read the reactions, and has not counted them yet."""
    ann = await tour.client("ann", 5)
    await ann.publish(TOPIC, b"text")
    (one,) = await ids_of(tour)
    storage = tour.server.storage
    real, others = storage.rows, [PutRow(GIVEN, TOPIC, given_key(1, Given("c/bob", HEART)), b"")]
    others.append(PutRow(COUNTS, TOPIC, place(1), json.dumps({HEART: 1}).encode()))

    async def rows(table: str, *args: Any, **page: Any) -> Any:
        found = await real(table, *args, **page)
        if table == GIVEN and others:
            await storage.commit(others)
            others.clear()
        return found

    monkeypatch.setattr(storage, "rows", rows)
    await react(ann, one, HEART)
    await until(partial(_is, partial(counts, tour, limit=1), [{HEART: 2}]))


async def test_what_is_no_reaction_is_refused(tour: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ann = await tour.client("ann", 5)
    await ann.publish(TOPIC, b"one")
    (one,) = await ids_of(tour)
    for wrong in (b"", b"\xff", "x" * (LONGEST + 1), "a\nb", "\x7f"):
        assert await react(ann, one, wrong) == SPECIFIC
    assert await react(ann, 7, HEART) == NOT_AUTHORIZED
    assert await react(ann, one, "x" * LONGEST) == NO_SUBSCRIBERS
    reaction = (await ids_of(tour))[1]
    assert await react(ann, reaction, HEART) == SPECIFIC
    monkeypatch.setattr(reacting_module, "MOST_KINDS", 2)
    assert await react(ann, one, "y") == NO_SUBSCRIBERS
    assert await react(ann, one, "z") == SPECIFIC
    monkeypatch.setattr(reacting_module, "MOST", 2)
    bob = await tour.client("bob", 5)
    assert await react(bob, one, "y") == SPECIFIC
    assert (await counts(tour, limit=1))[0] == {"x" * LONGEST: 1, "y": 1}


@pytest.mark.parametrize("reaction", ["24/7", "/", "a//b/", "👍/👎", "50%", "why?", "#1 + 1"])
async def test_whatever_signs_a_reaction_has_it_can_be_taken_back(tour: Site, reaction: str) -> None:
    caller, who = tour.caller(), {"user": "c/eve"}
    id = (await caller.post("/messages", json={"topic": TOPIC, "payload": "x"})).json()["id"]
    for method, body, given in (("PUT", {}, [reaction]), ("DELETE", None, [])):
        path = f"/messages/{id}/reactions/{quote(reaction, safe='')}"
        answer = await caller.request(method, path, params=who, json=body)
        assert (answer.status_code, answer.json().get("reaction")) == (200, reaction)
        found = (await caller.get(f"/messages/{id}/reactions")).json()["reactions"]
        assert [one["reaction"] for one in found] == given


async def test_a_stock_client_reacts(tour: Site) -> None:
    five, reader = PahoClient("five", paho.MQTTv5), PahoClient("reader", paho.MQTTv5)
    for client in (five, reader):
        await asyncio.to_thread(client.connect, tour.address)
    await asyncio.to_thread(reader.subscribe, "chat/#")
    await asyncio.to_thread(five.publish, TOPIC, b"text")
    (one,) = await ids_of(tour)
    properties = PahoProperties(PacketTypes.PUBLISH)
    properties.UserProperty = [("tideline-reacts", f"{one:016x}")]
    await asyncio.to_thread(lambda: five.publish(TOPIC, HEART.encode(), properties=properties))
    got = [await asyncio.to_thread(reader.message) for _ in range(2)]
    assert got[1].payload.decode() == HEART
    assert dict(got[1].properties.UserProperty) == {"tideline-reacts": f"{one:016x}"}  # type: ignore[union-attr]
    assert (await counts(tour, limit=1)) == [{HEART: 1}]
    for client in (five, reader):
        await asyncio.to_thread(client.close)


async def test_nodes_that_count_at_once_count_right() -> None:
    """Thirty users of three nodes react to one message, and some take it back."""
    async with cluster(3, plugins={"recall": {}}) as made, asyncio.timeout(60):
        users = [await made.nodes[n % 3].client(f"user-{n}", 5) for n in range(30)]
        await users[0].publish(TOPIC, b"text")
        (one,) = await ids_of(made.nodes[0])
        await asyncio.gather(*(react(user, one, HEART) for user in users))
        await asyncio.gather(*(react(user, one, HEART, back=True) for user in users[:7]))
        storage = made.nodes[0].server.storage

        async def right() -> bool:
            row = await storage.row(COUNTS, TOPIC, f"{1:016d}")
            given = await given_to(storage, TOPIC, 1)
            return row is not None and len(given) == 23 and counted(given) == {HEART: 23} and b": 23}" in row.value

        await until(right)
