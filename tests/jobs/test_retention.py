"""Retention: what the rules say goes, what a living device waits for stays."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker.clock import ServerTime
from broker.sessions.retention_lock import RetentionLock
from plugins.jobs import inboxes, retention
from storage.factory import open_url
from storage.records import Append, Message
from tests.jobs.conftest import DECIDED_BY_THE_JOB, House, MakeHouse, house_at
from tests.support.until import until
from tests.support.wire import Client

ALL = {"filter": "#", "max_messages": 0}
ONE = {"filter": "chat/#", "max_messages": 1}


async def fill(house: House, topic: str, count: int, **options: Any) -> None:
    publisher = await house.client("publisher")
    for number in range(1, count + 1):
        await publisher.publish(topic, b"%d" % number, **options)
    await publisher.leave()


async def reader(house: House, name: str, filter_: str) -> Client:
    client = await house.durable(name)
    await client.subscribe(filter_, options=1)
    return client


@DECIDED_BY_THE_JOB
async def test_nothing_is_removed_without_rules(house: MakeHouse) -> None:
    async with house() as made:
        await fill(made, "chat/a", 3)
        assert (await made.run("retention"))["removed"] == 0
        assert await made.storage.conversation_bounds("chat/a") == (1, 3)


@DECIDED_BY_THE_JOB
async def test_the_first_rule_that_matches_decides(house: MakeHouse) -> None:
    rules = [{"filter": "chat/keep"}, {"filter": "chat/#", "max_messages": 2}, {"filter": "log/+", "max_messages": 0}]
    async with house(rules) as made:
        for topic in ("chat/keep", "chat/a", "log/x", "log/x/deep", "other"):
            await fill(made, topic, 5)
        told = await made.run("retention")
        assert told == {"conversations": 5, "removed": 8, "spared": 0, "unacknowledged": 0}
        bounds = {t: await made.storage.conversation_bounds(t) for t in ("chat/keep", "chat/a", "log/x", "log/x/deep", "other")}
        assert bounds == {"chat/keep": (1, 5), "chat/a": (4, 5), "log/x": (6, 5), "log/x/deep": (1, 5), "other": (1, 5)}
        assert made.server.counters.messages_removed == 8
        await fill(made, "log/x", 1)
        assert await made.storage.conversation_bounds("log/x") == (6, 6)


async def test_messages_of_a_clock_that_was_wrong_grow_old_all_the_same(house: MakeHouse) -> None:
    """All that is kept is stamped ten years ahead, and what comes after it in the conversation too: times do not go back."""
    year = 365 * 86400.0
    error = 10 * year
    clocks = ServerTime(lambda: time.time() + error)
    async with house([{"filter": "chat/#", "max_age": "1h"}], time=clocks) as made:
        await fill(made, "chat/a", 5)
        error = 0.0
        await fill(made, "chat/a", 2)
        await fill(made, "chat/b", 2)
        assert (await made.run("retention"))["removed"] == 0
        clocks.not_before(clocks.now() + 3_601_000)
        await fill(made, "chat/a", 1)
        # The hour that is let pass is one of the machine's clock as well where that of a database is followed.
        assert (await made.run("retention"))["removed"] == (7 if made.storage.cluster is None else 9)
        assert await made.storage.conversation_bounds("chat/a") == (8, 8)


async def test_what_a_device_has_not_acknowledged_is_spared(house: MakeHouse) -> None:
    async with house([ALL]) as made:
        phone = await reader(made, "phone", "chat/#")
        await made.lose(phone, "phone")
        await fill(made, "chat/a", 5)
        await fill(made, "chat/b", 2)
        await fill(made, "alone", 4)
        phone = await made.durable("phone")
        for _ in range(3):
            await phone.message()
        await made.lose(phone, "phone")
        told = await made.run("retention")
        assert told == {"conversations": 3, "removed": 7, "spared": 4, "unacknowledged": 0}
        assert await made.storage.conversation_bounds("chat/a") == (4, 5)
        assert await made.storage.conversation_bounds("chat/b") == (1, 2)
        assert await made.storage.conversation_bounds("alone") == (5, 4)
        phone = await made.durable("phone")
        assert [m.payload for m in await phone.messages(4)] == [b"4", b"5", b"1", b"2"]


async def test_in_flight_is_not_acknowledged(house: MakeHouse) -> None:
    async with house([ALL]) as made:
        phone = await reader(made, "phone", "chat/#")
        await fill(made, "chat/a", 3)
        first, second = [await phone.message(finish=False) for _ in range(2)]
        await phone.message()  # the third is acknowledged, and the window still begins at the first
        await phone.ping()
        assert (await made.run("retention"))["spared"] == 3
        await made.lose(phone, "phone")
        phone = await made.durable("phone")
        again = await phone.messages(2)
        assert [(m.payload, m.dup) for m in again] == [(first.payload, True), (second.payload, True)]
        await phone.ping()
        assert (await made.run("retention"))["removed"] == 3


async def test_a_shared_group_is_a_reader(house: MakeHouse) -> None:
    async with house([ALL]) as made:
        worker = await reader(made, "worker", "$share/crew/jobs/#")
        await made.lose(worker, "worker")
        await fill(made, "jobs/x", 3)
        assert (await made.run("retention"))["spared"] == 3
        worker = await made.durable("worker")
        assert [m.payload for m in await worker.messages(3)] == [b"1", b"2", b"3"]
        await worker.ping()

        async def removed() -> int:
            return int((await made.run("retention"))["removed"])

        assert await until(removed) == 3, "once the group's offset is stored"


async def test_who_ended_its_session_holds_nothing(house: MakeHouse) -> None:
    async with house([ALL]) as made:
        phone = await reader(made, "phone", "chat/#")
        await made.lose(phone, "phone")
        await fill(made, "chat/a", 3)
        await (await made.client("phone")).leave()  # a clean session ends the durable one
        assert (await made.run("retention"))["removed"] == 3


@DECIDED_BY_THE_JOB
async def test_unacknowledged_messages_go_where_the_rule_says_so_and_are_counted(
    house: MakeHouse, caplog: pytest.LogCaptureFixture
) -> None:
    rules = [{"filter": "debug/#", "max_messages": 2, "even_unacknowledged": True}, ALL]
    async with house(rules) as made:
        for name in ("phone", "tablet"):
            await made.lose(await reader(made, name, "#"), name)
        await fill(made, "debug/x", 5)
        await fill(made, "chat/a", 1)
        told = await made.run("retention")
        assert told == {"conversations": 2, "removed": 3, "spared": 1, "unacknowledged": 6}
        assert made.server.counters.entries_lost == 6
        assert "6 inbox entries still waited for" in caplog.text
        assert "'debug/x'" in caplog.text
        phone = await made.durable("phone")
        assert [m.payload for m in await phone.messages(3)] == [b"4", b"5", b"1"]
        await phone.quiet()


@DECIDED_BY_THE_JOB
async def test_unacknowledged_entries_are_counted_as_far_as_a_run_came(
    house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 4)
    async with house([{"filter": "#", "max_messages": 1, "even_unacknowledged": True}]) as made:
        for name in ("phone", "tablet"):
            await made.lose(await reader(made, name, "chat/#"), name)
        await fill(made, "chat/a", 12)
        prune = made.storage.prune_conversation

        async def watched(topic: str, before: int, limit: int = 1000, now: int = 0) -> int:
            if before > 1 and (await made.storage.conversation_bounds(topic))[0] == 5:
                made.jobs.cancel("retention")
            return await prune(topic, before, limit, now)

        made.storage.prune_conversation = watched  # type: ignore[method-assign, assignment]
        await made.let_age()
        made.jobs.run("retention")
        detail = (await made.jobs.ended("retention"))["last"]["detail"]
        assert (detail["removed"], detail["unacknowledged"]) == (8, 16)
        made.storage.prune_conversation = prune  # type: ignore[method-assign]
        told = await made.run("retention")
        assert (told["removed"], told["unacknowledged"]) == (3, 6)


async def test_a_retained_message_that_is_on_its_way_to_a_new_subscriber_is_spared(house: MakeHouse) -> None:
    async with house([ALL]) as made:
        await fill(made, "chat/a", 1, retain=True)
        phone = await reader(made, "phone", "chat/#")
        assert (await phone.message(finish=False)).payload == b"1"
        await made.lose(phone, "phone")
        publisher = await made.client("publisher")
        await publisher.publish("chat/a", b"newer", retain=True)
        assert (await made.run("retention"))["spared"] == 2
        phone = await made.durable("phone")
        assert [(m.payload, m.dup) for m in await phone.messages(2)] == [(b"1", True), (b"newer", False)]


async def test_a_retained_message_stays(house: MakeHouse) -> None:
    async with house([ALL]) as made:
        await fill(made, "chat/a", 2, retain=True)
        assert (await made.run("retention"))["removed"] == 2
        client = await reader(made, "phone", "chat/#")
        message = await client.message()
        assert (message.payload, message.retain) == (b"2", True)
        await client.ping()


async def test_age_goes_by_the_server_time_of_the_messages(url: str, house: MakeHouse) -> None:
    if url == "memory://":
        pytest.skip("keeps nothing that was stored before")
    storage = open_url(url)
    await storage.open()
    now = int(time.time() * 1000)
    ages = [9000, 5000, 3700, 3500, 10]
    await storage.commit(
        [Append(Message(n, "chat/a", "u/x", "d", now - age * 1000, 1, b"x")) for n, age in enumerate(ages, start=1)]
    )
    await storage.close()
    async with house([{"filter": "#", "max_age": "1h"}]) as made:
        assert (await made.run("retention"))["removed"] == 3
        assert await made.storage.conversation_bounds("chat/a") == (4, 5)


@DECIDED_BY_THE_JOB
async def test_many_are_removed_step_by_step_and_a_run_may_be_cancelled_in_between(
    house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 10)
    async with house([ONE]) as made:
        await fill(made, "chat/a", 45)
        prune, steps = made.storage.prune_conversation, []

        async def watched(topic: str, before: int, limit: int = 1000, now: int = 0) -> int:
            steps.append(limit)
            if len(steps) == 2:
                told = made.jobs.job("retention")["running"]
                assert (told["what"], told["done"], told["total"]) == ("removing messages", 10, 44)
                made.jobs.cancel("retention")
            return await prune(topic, before, limit, now)

        made.storage.prune_conversation = watched  # type: ignore[method-assign, assignment]
        await made.let_age()
        made.jobs.run("retention")
        last = (await made.jobs.ended("retention"))["last"]
        assert (last["outcome"], last["detail"]["removed"], steps) == ("cancelled", 20, [10, 10])
        assert await made.storage.conversation_bounds("chat/a") == (21, 45)
        assert (await made.run("retention"))["removed"] == 24
        assert await made.storage.conversation_bounds("chat/a") == (45, 45)


async def test_a_device_that_sets_its_offset_back_during_a_run_is_looked_at_again(
    house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a step: it waits for the step's end, and is looked at before the next."""
    monkeypatch.setattr(retention, "STEP", 2)
    async with house([ALL]) as made:
        phone = await reader(made, "phone", "chat/#")
        await fill(made, "chat/a", 8)
        await phone.messages(8)
        await phone.ping()
        key = next(s.key for s in made.server.sessions if s.key.client_id == "phone")
        prune = made.storage.prune_conversation
        moving: list[asyncio.Task[int]] = []

        async def watched(topic: str, before: int, limit: int = 1000, now: int = 0) -> int:
            if not moving:
                await made.lose(phone, "phone")
                moving.append(asyncio.create_task(made.server.api.readers.set_offset(key, 5)))
                await until(lambda: made.server.retention_lock.waiting)
            return await prune(topic, before, limit, now)

        made.storage.prune_conversation = watched  # type: ignore[method-assign, assignment]
        assert await made.run("retention") == {"conversations": 1, "removed": 5, "spared": 3, "unacknowledged": 0}
        assert await moving[0] == 5
        again = await made.durable("phone")
        assert [m.payload for m in await again.messages(3)] == [b"6", b"7", b"8"]


@pytest.mark.parametrize("kind", ["inboxes", "retention"])
async def test_a_new_device_that_starts_at_the_earliest_loses_nothing_to_the_next_step(
    url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its CONNECT comes while a step removes: it begins where that ends, and what is after it stays until it has it."""
    monkeypatch.setattr(retention, "STEP", 10)
    monkeypatch.setattr(inboxes, "STEP", 10)
    plugins = {"sync": {"start": "earliest"}, "tests.support.laws_auth.NameIsPassword": {}}
    ann: dict[str, Any] = {"username": "ann", "password": b"ann"}
    async with house_at(url, [ALL], plugins, inboxes={"schedule": "never", "keep": 0}) as made:
        phone = await made.durable("phone", **ann)
        await phone.subscribe("chat/#", options=1)
        publisher = await made.client("publisher", username="bob", password=b"bob")
        for number in range(1, 31):
            await publisher.publish("chat/a", b"%d" % number)
        await phone.messages(30)
        await phone.leave()
        name = "prune_inbox" if kind == "inboxes" else "prune_conversation"
        prune = getattr(made.storage, name)
        comes: list[asyncio.Task[Client]] = []

        async def watched(timeline: str, before: int, limit: int = 1000, now: int = 0) -> int:
            if not comes:
                comes.append(asyncio.create_task(made.durable("tablet", **ann)))
                await until(lambda: made.server.retention_lock.waiting == 1)
            return int(await prune(timeline, before, limit, now))

        setattr(made.storage, name, watched)
        assert (await made.run(kind))["removed"] == 10
        tablet = await comes[0]
        await tablet.subscribe("chat/#", options=1)
        assert [m.payload for m in await tablet.messages(20)] == [b"%d" % number for number in range(11, 31)]


async def test_a_new_device_that_is_let_in_on_the_spot_waits_for_a_step_all_the_same(house: MakeHouse) -> None:
    """Where nobody has to be asked who it is, and nothing has to be read of it."""
    async with house([ALL], {"sync": {"start": "earliest"}}) as made:
        retention_lock = made.server.retention_lock
        async with retention_lock.removing():
            comes = asyncio.create_task(made.durable("tablet"))
            await until(lambda: retention_lock.waiting or comes.done())
            assert not comes.done()
        await comes
        assert retention_lock.beginnings == 0


async def test_one_begins_or_another_removes() -> None:
    retention_lock = RetentionLock()
    order: list[str] = []

    async def remove(name: str) -> None:
        async with retention_lock.removing():
            order.append(f"{name} removes")
            await asyncio.sleep(0)
            order.append(f"{name} removed")

    async def begin(user: str) -> None:
        await retention_lock.begin(user)
        order.append(f"{user} begins")
        await asyncio.sleep(0)
        order.append(f"{user} began")
        retention_lock.begun()

    with retention_lock.watching() as began:
        async with asyncio.timeout(5):
            await asyncio.gather(begin("u/a"), begin("u/b"), remove("one"), begin("u/c"), remove("two"), begin("u/d"))
        assert began == {"u/a", "u/b", "u/c", "u/d"}
    assert sorted(order[:4]) == ["u/a began", "u/a begins", "u/b began", "u/b begins"]
    assert order[4:8] == ["one removes", "one removed", "two removes", "two removed"]  # before those who came after
    assert sorted(order[8:]) == ["u/c began", "u/c begins", "u/d began", "u/d begins"]


@DECIDED_BY_THE_JOB
async def test_the_search_index_forgets_what_is_removed(house: MakeHouse, tmp_path: Path) -> None:
    from plugins.search.service import Query, Search

    async with house([ONE], plugins={"search": {"path": str(tmp_path / "s.db")}}) as made:
        await fill(made, "chat/a", 4)
        search = made.server.api.plugin(Search)
        assert search is not None
        assert await search.wait_sequence("chat/a", 4, 60.0)
        assert (await made.run("retention"))["removed"] == 3

        async def forgotten() -> bool:
            return (await search.search(Query())).total == 1

        await until(forgotten, "the index forgets soon what is removed")
        assert await made.run("index") == {"conversations": 1, "messages": 1, "missing": 0, "surplus": 0}
        page = await search.search(Query())
        assert ([hit.message.payload for hit in page.hits], page.total) == ([b"4"], 1)


async def test_an_inbox_that_is_damaged_spares_what_it_may_wait_for_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What came before its damage goes, in every conversation; what a rule removes in any case goes too."""
    rules = [{"filter": "forced", "max_messages": 0, "even_unacknowledged": True}, ALL]
    async with house_at(f"sqlite:///{tmp_path}/t.db", rules, {}) as made:
        for name in ("ann", "bob"):
            await (await reader(made, name, "chat/a")).leave()
        await fill(made, "chat/b", 2)
        await fill(made, "chat/a", 1)
        for name in ("ann", "bob"):
            again = await made.durable(name)
            await again.message()
            await again.leave()
        for topic in ("chat/b", "forced", "chat/a", "chat/b", "forced"):
            await fill(made, topic, 2)
        with closing(sqlite3.connect(tmp_path / "t.db")) as connection, connection:
            connection.execute("UPDATE sync SET run = '[' WHERE seq = 2 AND user = (SELECT id FROM users WHERE key = 'c/ann')")
        told = await made.run("retention")
        bounds = {topic: await made.storage.conversation_bounds(topic) for topic in ("chat/a", "chat/b", "forced")}
        assert bounds == {"chat/a": (2, 3), "chat/b": (3, 6), "forced": (5, 4)}
        assert (told["removed"], told["spared"], told["unreadable_inboxes"]) == (7, 6, 1)
        assert "retention spares what came since the last entry that can be read: the inbox of 'c/ann'" in caplog.text
        again = await made.durable("bob")
        assert [message.payload for message in await again.messages(2)] == [b"1", b"2"]
