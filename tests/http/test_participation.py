"""Whose a conversation is, where no topic plugin says: noted with the message, over restarts, and for retained messages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from broker.hooks import Group
from plugins.timelines import Participants
from storage.records import Append, Join, Message
from tests.http.conftest import Site

Sites = Callable[..., AbstractAsyncContextManager[Site]]


async def names(made: Site, user: str) -> list[str]:
    return [c["topic"] for c in (await made.caller(user).get("/conversations")).json()["conversations"]]


async def test_publishing_and_receiving_make_it_mine_over_restarts(sites: Sites, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    async with sites(url) as made:
        phone = await made.device("bob", "phone")
        await phone.subscribe("got/#", options=1)
        alice = await made.device("alice", "phone")
        await alice.publish("got/a", b"x", qos=1)
        await alice.publish("alone", b"x", qos=1)
    async with sites(url) as made:
        assert await names(made, "alice") == ["alone", "got/a"]
        assert await names(made, "bob") == ["got/a"]
        assert await names(made, "eve") == []


async def test_a_retained_message_in_the_inbox_makes_it_mine(users: Site) -> None:
    alice = await users.device("alice", "phone")
    await alice.publish("kept/a", b"x", qos=1, retain=True)
    eve = await users.device("eve", "phone")
    assert await names(users, "eve") == []
    await eve.subscribe("kept/#", options=1)
    await eve.message()
    assert await names(users, "eve") == ["kept/a"]


async def test_conversations_come_in_pages(users: Site) -> None:
    http = users.caller("alice")
    wanted = [f"t/{n:02}" for n in range(7)]
    for topic in wanted:
        await http.post(f"/conversations/{topic}/messages", json={"payload": "x"})
    found: list[str] = []
    after = ""
    for _ in range(6):
        page = (await http.get("/conversations", params={"after": after, "limit": 3})).json()
        found += [c["topic"] for c in page["conversations"]]
        after = page["next"]
        if after is None:
            break
    assert found == wanted


def group(topic: str, user: str, recipients: tuple[str, ...], **fields: Any) -> Group:
    append = Append(Message(1, topic, user, "d", 0, 1, b""), recipients, **fields)
    return Group([append], [append])


def joined(noted: Group) -> list[tuple[str, str]]:
    return [pair for operation in noted.operations if isinstance(operation, Join) for pair in operation.pairs]


def test_a_pair_is_noted_once_and_nothing_else_is() -> None:
    participants, plugin = Participants(), object()
    recipients = ("u/bob", "s/group/a")
    steps = [
        (group("t", "u/ann", recipients), [("u/ann", "t"), ("u/bob", "t")]),
        (group("t", "u/ann", recipients), []),
        (group("t", "u/eve", recipients), [("u/eve", "t")]),
        (group("t", "u/ann", ("u/bob", "u/new")), [("u/new", "t")]),
        (group("live", "u/ann", (), store=False), []),
        (group("t2", "u/ann", (), error=ValueError()), []),
        (group("t3", "b/tideline", ()), []),
    ]
    for noted, expected in steps:
        participants.note(noted, plugin)
        assert joined(noted) == expected
    other = group("t4", "u/ann", ())
    participants.note(other, object())
    assert joined(other) == []  # the first plugin that called does it


def test_what_is_remembered_is_bounded() -> None:
    participants, plugin = Participants(limit=10), object()
    for number in range(100):
        noted = group(f"t{number}", "u/ann", ())
        participants.note(noted, plugin)
        assert joined(noted) == [("u/ann", f"t{number}")]
    assert len(participants._known) <= 10
