"""A user's own conversations: what was active last is first, and what is unread is told without one's own messages."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from broker.packets import Property
from plugins.conversations.model import MINE
from storage.records import Message, PutRow
from tests.conversations.conftest import ALICE, BOB, EVE, group, say
from tests.http.conftest import Site


async def mine(caller: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        answer = await caller.get("/me/conversations", params=params)
        assert answer.status_code == 200, answer.text
        found += answer.json()["conversations"]
        if answer.json()["next"] is None:
            return found
        params["after"] = answer.json()["next"]


async def test_they_are_listed_by_last_activity_in_pages(talk: Site) -> None:
    alice, bob = talk.caller("alice"), talk.caller("bob")
    topics = [await group(alice, BOB, name=name) for name in ("one", "two", "three")]
    for topic in (topics[1], topics[0], topics[2], topics[0]):
        await say(alice, topic, f"in {topic}")
    listed = await mine(bob)
    assert [one["name"] for one in listed] == ["one", "three", "two"]
    assert [one["last_message"]["payload"] for one in listed] == [f"in {topics[n]}" for n in (0, 2, 1)]
    assert [one["name"] for one in await mine(bob, limit=1)] == ["one", "three", "two"]
    assert (await bob.get("/me/conversations", params={"after": "nonsense"})).status_code == 422
    new = await group(alice, BOB, name="new")
    assert (await mine(bob))[0]["topic"] == new, "it is new, and nothing was said in it"


async def test_the_list_is_sorted_without_reading_each_conversation(talk: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a row is of a version that kept nothing to sort by."""
    alice, bob = talk.caller("alice"), talk.caller("bob")
    topics = [await group(alice, BOB) for _ in range(5)]
    for topic in (topics[3], topics[1], topics[4]):
        await say(alice, topic, "x")
    await talk.server.api.commit([PutRow(MINE, BOB, topic, b"") for topic in (topics[1], topics[2])], 10.0)
    await bob.put("/me/values/theme", json={"value": "dark"})
    storage, read = talk.server.storage, list[str]()
    reads = storage.read_conversation

    async def noted(topic: str, **arguments: Any) -> list[Message]:
        read.append(topic)
        return await reads(topic, **arguments)

    monkeypatch.setattr(storage, "read_conversation", noted)
    page = (await bob.get("/me/conversations", params={"limit": 2})).json()
    assert [one["topic"] for one in page["conversations"]] == [topics[4], topics[1]]
    assert sorted(read) == sorted([topics[4], topics[1]])
    page = (await bob.get("/me/conversations", params={"after": page["next"]})).json()
    assert [one["topic"] for one in page["conversations"]] == [topics[3], topics[2], topics[0]]
    assert sorted(page["conversations"][2]) == sorted((await mine(alice))[0]), "all is told of one in which nothing was said"


async def test_who_is_invited_learns_nothing_of_what_is_said(talk: Site) -> None:
    alice, eve = talk.caller("alice"), talk.caller("eve")
    topic, other = await group(alice), await group(alice, EVE)
    await alice.put(f"/conversations/{topic}/members/{EVE}", json={"invite": True})
    await say(alice, other, "x")
    await say(alice, topic, "y")
    listed = await mine(eve)
    assert [(one["topic"], one["invited"], one["last"]) for one in listed] == [(other, False, 1), (topic, True, 0)]
    assert listed[1]["last_message"] is None
    await eve.post(f"/conversations/{topic}/join", json={})
    assert [one["topic"] for one in await mine(eve)] == [topic, other]


async def test_unread_is_what_others_said_past_the_read_position(talk: Site) -> None:
    alice, bob = talk.caller("alice"), talk.caller("bob")
    topic = await group(alice, BOB)
    for caller, text in ((alice, "1"), (bob, "2"), (bob, "3"), (alice, "4"), (alice, "5")):
        await say(caller, topic, text)

    async def counted(caller: httpx.AsyncClient) -> tuple[int, int, int]:
        (one,) = await mine(caller)
        return one["unread"], one["position"], one["last"]

    assert await counted(bob) == (3, 0, 5)
    assert await counted(alice) == (2, 0, 5)
    await bob.put(f"/conversations/{topic}/position", json={"position": 3})
    assert await counted(bob) == (2, 3, 5)
    await bob.put(f"/conversations/{topic}/position", json={"position": 5})
    assert await counted(bob) == (0, 5, 5)
    await say(bob, topic, "6")
    assert await counted(bob) == (0, 5, 6)
    (one,) = await mine(bob)
    assert one["total"] == 6


async def test_who_is_mentioned_is_told_until_it_has_read_that(talk: Site) -> None:
    alice, bob, eve = (talk.caller(name) for name in ("alice", "bob", "eve"))
    topic = await group(alice, BOB)
    await say(alice, topic, "hello bob", properties=[["mentions", "bob"], ["mentions", EVE], ["mentions", ALICE]])
    await say(alice, topic, "bob?", mentions=[BOB, "u/nobody"])
    await say(alice, topic, "nobody")
    assert [one["mentions"] for one in await mine(bob)] == [2]
    assert [one["mentions"] for one in await mine(alice)] == [0]
    await bob.put(f"/conversations/{topic}/position", json={"position": 1})
    assert [one["mentions"] for one in await mine(bob)] == [1]
    await bob.put(f"/conversations/{topic}/position", json={"position": 3})
    assert [one["mentions"] for one in await mine(bob)] == [0]
    await alice.put(f"/conversations/{topic}/members/{EVE}", json={})
    assert [one["mentions"] for one in await mine(eve)] == [0], "it was no member"
    wrong = await say(alice, topic, "x", mentions=["bob"])
    assert (wrong.status_code, "u/<user name>" in wrong.text) == (422, True)


async def test_a_message_that_mentions_too_many_is_refused(talk: Site) -> None:
    """Over MQTT as over HTTP, rather than that some of them are not told."""
    alice = talk.caller("alice")
    topic = await group(alice, BOB)
    phone = await talk.device("alice", "phone", 5)
    few = [("mentions", BOB), *(("mentions", f"user{number}") for number in range(49))]
    many = {Property.USER_PROPERTY: [*few, ("mentions", "one more")]}
    assert await phone.publish(topic, b"all of you", qos=1, properties=many) == 0x83
    assert await phone.publish(topic, b"most of you", qos=1, properties={Property.USER_PROPERTY: few}) == 0
    assert [one["mentions"] for one in await mine(talk.caller("bob"))] == [1]
    wrong = await say(alice, topic, "x", properties=few[:2], mentions=[f"u/bob{number}" for number in range(49)])
    assert (wrong.status_code, "51 users, a message mentions at most 50" in wrong.text) == (422, True)


async def test_muting_is_the_members_own(talk: Site) -> None:
    alice, bob = talk.caller("alice"), talk.caller("bob")
    phone = await talk.device("bob", "phone")
    topic = await group(alice, BOB)
    muted = await bob.put(f"/conversations/{topic}/mute", json={"muted": True})
    assert muted.json()["mine"]["muted"] is True
    assert [one["muted"] for one in await mine(bob)] == [True]
    assert [one["muted"] for one in await mine(alice)] == [False]
    await say(alice, topic, "quiet")
    assert (await phone.message()).payload == b"quiet"
