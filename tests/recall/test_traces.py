"""Erasing a user or a conversation leaves no trace of it in files and documents, wherever the broker is killed meanwhile.

Ann has left a word of its own in every kind of place (`tests.recall.words`). The broker is killed before each write of a phase
of the erasure in turn (before every fifth to MongoDB, of which there are many): before the first one, then, started again,
before the second, until the phase has no more. Once the erasure is done, the broker is killed again. Then none of the words is
anywhere, and all that is Bob's is there, in order and once.

Nothing that is looked into is compressed: what storage, index and attachments write is as it was given.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from pymongo import MongoClient

from broker.packets.model import Publish, Subscribe
from plugins.recall.erasure import CONVERSATION, PHASES, USER
from tests.recall.dying import BEHIND
from tests.recall.talking import OTHER, ROOM, Talking, bob_said, fill
from tests.recall.words import ELSEWHERE, IN_ROOM, OF_ROOM, Look, word
from tests.support.storages import storage_url
from tests.support.until import until

NAMES = {USER: "u/ann", CONVERSATION: ROOM}
STAYS = {"once"}
"""The name that keeps a repeat of a message out: docs/recall.md says for how long."""
LOST = {USER: {*IN_ROOM, *ELSEWHERE} - STAYS, CONVERSATION: {*IN_ROOM, *OF_ROOM} - STAYS}
EVERY = {"sqlite": 1, "mongodb": 5}
_PATIENCE = 180.0
"""Seconds: MongoDB's stand-in is slow, and a node that was killed is missed after a while only."""


class Kept:
    """A filled broker that was stopped, of which each test gets a copy."""

    def __init__(self, folder: Path, documents: dict[str, list[dict[str, Any]]]) -> None:
        self._folder = folder
        self._documents = documents

    @classmethod
    async def make(cls, folder: Path, kind: str) -> Kept:
        """Fill one, and see that each word can be found."""
        (folder / "data").mkdir()
        async with storage_url(kind, folder / "data") as url:
            broker = Talking(folder, url)
            try:
                await broker.start()
                await fill(broker)
                everywhere = {*IN_ROOM, *ELSEWHERE, *OF_ROOM}
                assert everywhere == {found.split()[0] for found in found_in(Look(everywhere), folder, url)}
                await asyncio.to_thread(broker.process.stop)
            finally:
                broker.process.kill()
            documents = {}
            if kind == "mongodb":
                with MongoClient[Any](plain(url)) as client:
                    database = client.get_default_database()
                    documents = {name: list(database[name].find()) for name in database.list_collection_names()}
        return cls(folder / "data", documents)

    @asynccontextmanager
    async def copied(self, folder: Path) -> AsyncIterator[str]:
        """The URL of a copy, whose files are in a folder."""
        shutil.copytree(self._folder, folder / "data")
        async with storage_url("mongodb" if self._documents else "sqlite", folder / "data") as url:
            if self._documents:
                with MongoClient[Any](plain(url)) as client:
                    database = client.get_default_database()
                    for name, documents in self._documents.items():
                        if documents:
                            database[name].insert_many(documents)
            yield url


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Awaitable[Kept]]:
    """Makes each kind once."""
    made: dict[str, Kept] = {}

    async def make(kind: str) -> Kept:
        if kind not in made:
            made[kind] = await Kept.make(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return make


def plain(url: str) -> str:
    """What the driver understands of a storage's URL."""
    address, _, query = url.partition("?")
    return f"{address}?{'&'.join(option for option in query.split('&') if not option.startswith('tideline_'))}"


def found_in(look: Look, folder: Path, url: str) -> list[str]:
    """Where words are."""
    return look.files(folder) + (look.database(plain(url)) if url.startswith("mongodb") else [])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("what", "phase"), [(what, phase) for what in NAMES for phase in (*PHASES[what], BEHIND)])
@pytest.mark.parametrize("kind", ["sqlite", "mongodb"])
async def test_whatever_is_killed(tmp_path: Path, kept: Any, kind: str, what: str, phase: str) -> None:
    await no_trace(await kept(kind), tmp_path, what, phase, itertools.count(1, EVERY[kind]))


async def test_of_a_user_after_a_kill(tmp_path: Path, kept: Any) -> None:
    """One kill of those above: some messages are recalled, others are not."""
    await no_trace(await kept("sqlite"), tmp_path, USER, "messages", [3])


async def no_trace(kept: Kept, folder: Path, what: str, phase: str, writes: Iterable[int]) -> None:
    """Copy it, erase, die before each of the writes, and look."""
    async with kept.copied(folder) as url:
        if not await dies(folder, url, what, phase, writes):
            pytest.fail(f"phase {phase} writes nothing")
        broker = Talking(folder, url)
        try:
            await broker.start()
            await until(lambda: state(broker, what), lambda: broker.process.log[-3000:], _PATIENCE)
            await check_bobs(broker, what)  # his subscriptions take the place of hers as the last change that nodes are told
            look = Look(LOST[what])
            await until(lambda: not found_in(look, folder, url), lambda: str(found_in(look, folder, url)), _PATIENCE)
            assert broker.process.complaints == []
        finally:
            broker.process.kill()


async def dies(folder: Path, url: str, what: str, phase: str, writes: Iterable[int]) -> int:
    """Begin the erasure, and go on with it after each kill, until it is done or there are no more ``writes``; how often the
    broker died. It is killed at the end, too."""
    kills = 0
    for write in writes:
        if await run(Talking(folder, url, phase, write), what, first=kills == 0) == "done":
            break
        kills += 1
    return kills


async def run(broker: Talking, what: str, *, first: bool) -> str:
    """Run it until it has `ended`. ``first``: the erasure is to be asked for."""
    try:
        await broker.start(mind=first)
        if first:
            async with broker.caller() as operator:
                with suppress(httpx.TransportError):  # it is killed before it answers
                    assert (await operator.post("/erasures", json={what: NAMES[what]})).status_code == 202
        return await until(lambda: ended(broker, what), lambda: broker.process.log[-3000:], _PATIENCE)
    finally:
        broker.process.kill()


async def ended(broker: Talking, what: str) -> str:
    """How: ``done`` or ``died``; empty while it goes on."""
    assert broker.process.process is not None
    if broker.process.process.poll() is not None:
        return "died"
    return "done" if await state(broker, what) else ""


async def state(broker: Talking, what: str) -> bool:
    """Whether the erasure is done."""
    try:
        async with broker.caller() as operator:
            answer = await operator.get(f"/erasures/{what}/{NAMES[what]}")
    except (OSError, httpx.TransportError):
        return False
    if answer.status_code != 200:
        return False
    found = answer.json()
    assert found["failed"] == 0
    return bool(found["state"] == "done")


async def check_bobs(broker: Talking, what: str) -> None:
    """All of it is there: history, inbox, channel, what is retained, draft, schedules, attachment, search."""
    topics = (ROOM, OTHER) if what == USER else (OTHER,)
    async with broker.caller("bob") as bob:
        for topic in topics:
            page = (await bob.get(f"/conversations/{topic}/messages", params={"order": "oldest", "limit": 100})).json()[
                "messages"
            ]
            assert [one["seq"] for one in page] == list(range(1, len(page) + 1))
            told = [one["payload"] for one in page if one["sender"] == "u/bob"]
            assert [text for text in told if text.startswith("bob in ")] == bob_said(topic)
            hers = [one["payload"] for one in page if one["sender"] == "u/ann"]
            assert [bool(text) for text in hers] == [what == CONVERSATION] * len(hers)
        assert (await bob.get("/me/values")).json()["values"] == {"draft": "bob drafts"}
        waiting = (await bob.get("/schedules")).json()["schedules"]
        assert sorted(one["topic"] for one in waiting) == sorted(topics)
        attached = (await bob.get("/attachments")).json()["attachments"]
        assert sorted(one["topic"] for one in attached) == sorted(topics)
        mine = next(one for one in attached if one["topic"] == OTHER)
        assert (await bob.get(f"/attachments/{mine['id']}")).content == word("bobs own attached").encode() * 10
        found = (await bob.get("/search", params={"q": f'"{bob_said(OTHER)[-1]}"'})).json()
        assert found["total"] == 1
        await bob.post("/messages", json={"topic": OTHER, "payload": "end"})
    tablet = await broker.device("bob", "tablet")
    got = [""]
    while got[-1] != "end":
        got.append((await tablet.message()).payload.decode())
    expected = [text for texts in zip(*(bob_said(topic) for topic in topics), strict=True) for text in texts]
    assert [text for text in got if text in expected] == expected
    assert got.count("bob to all") == 1
    await tablet.leave()
    fresh = await broker.device("bob", "fresh")
    fresh.send(Subscribe(fresh.new_id(), [("none/bob", 1)], {}))
    came: set[bytes] = set()
    while b"bob retains" not in came:
        packet = await fresh.receive()
        came |= {packet.payload} if isinstance(packet, Publish) else set()
    # A new device follows his conversations by itself, sooner or later than this: what is retained in them comes, too.
    assert came - {b"bob retains"} <= ({word("bob-retains").encode()} if what == USER else set())
    await fresh.leave()
