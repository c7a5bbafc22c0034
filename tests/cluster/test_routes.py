"""What a node knows of the others: also one that has just started, and of what is told twice, late, or was removed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from broker.cluster.holders import Holders
from broker.cluster.interest import Interest
from broker.cluster.interest_exchange import InterestExchange
from broker.pipeline import Step
from storage.cluster import HELD, LISTEN, UNLISTEN, Change
from storage.records import Announce, DeviceKey, Operation
from tests.support.cluster import cluster
from tests.support.until import until

PHONE, TABLET = DeviceKey("u/ann", "phone"), DeviceKey("u/ann", "tablet")


async def test_a_node_that_starts_knows_all_filters_and_who_is_where() -> None:
    """Also what was told so long ago that it is no longer kept."""
    async with cluster(1) as made:
        (one,) = made.nodes
        durable, clean = await one.durable("durable", 5), await one.client("clean", 5)
        for subscriber in (durable, clean):
            await subscriber.subscribe("news/#", "state", options=1)
        made.database.routes_floor += len(made.database.routes)
        made.database.routes.clear()
        made.database._route_times.clear()
        other = await made.start()
        publisher = await other.client("publisher")
        for topic in ("news/1", "state"):
            await publisher.publish(topic, b"hello")
        for subscriber in (durable, clean):
            assert {message.topic for message in await subscriber.messages(2)} == {"news/1", "state"}


async def test_a_node_that_does_not_say_what_it_wants_is_told_of_everything() -> None:
    """Until it has said so. It is frozen when the other one starts."""
    async with cluster(1, lease=30.0) as made:
        (one,) = made.nodes
        clean = await one.client("clean", 5)
        await clean.subscribe("news", options=1)
        one.freeze()
        other = await made.start()
        assert other.server._cluster is not None
        assert other.server._cluster.routes.unknown == {one.token}
        publisher = await other.client("publisher")
        await publisher.publish("news", b"hello")
        await publisher.publish("elsewhere", b"hello")
        one.thaw()
        assert (await clean.message()).topic == "news"
        await clean.quiet()


async def test_filters_of_a_session_that_ended_elsewhere_match_no_more() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        phone = await other.durable("phone", 5)
        await phone.subscribe("news/#", "state", options=1)
        publisher = await one.client("publisher")
        await publisher.publish("news/1", b"hello")
        await phone.message()
        await phone.unsubscribe("state")
        assert await publisher.publish("state", b"nobody") == 0
        await phone.leave()
        gone = await one.client("phone", 5)  # a clean start, on the other node
        await gone.leave()
        await publisher.publish("news/1", b"nobody")
        assert await one.storage.inbox_head("c/phone") == 1


async def test_old_changes_are_removed_once_all_nodes_have_applied_them() -> None:
    async with cluster(2, lease=0.4) as made:
        one, other = made.nodes
        phone = await other.durable("phone", 5)
        await phone.subscribe("news", options=1)
        await until(lambda: made.database.routes_floor >= 1)
        publisher = await one.client("publisher")
        await publisher.publish("news", b"hello")
        await phone.message()


async def test_a_reader_over_http_is_woken_by_another_node() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        phone = await one.durable("phone", 5)
        await phone.subscribe("news", options=1)
        await one.lose(phone, "phone")
        publisher = await one.client("publisher")
        async with other.server.api.readers.watching("c/phone") as news:
            assert one.server._cluster is not None
            routes = one.server._cluster.routes
            await until(lambda: other.token in routes.nodes_of("c/phone"))
            await publisher.publish("news", b"hello")
            async with asyncio.timeout(30):
                await news.wait()


# --- no I/O --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
def test_who_has_which_device_may_be_told_again(times: int) -> None:
    holders = Holders(60.0)
    for key, node, epoch in ((PHONE, 1, 1), (TABLET, 1, 1), (PHONE, 2, 2)):
        for _ in range(times):
            holders.held(key, node, epoch)
    assert set(holders.nodes_of("u/ann")) == {1, 2}
    for _ in range(times):
        holders.released(TABLET, 1, 1)
    assert set(holders.nodes_of("u/ann")) == {2}
    for _ in range(times):
        holders.waits("u/ann", 1, waits=True)
    assert set(holders.nodes_of("u/ann")) == {1, 2}
    for _ in range(times):
        holders.waits("u/ann", 1, waits=False)
        holders.released(PHONE, 2, 2)
    assert set(holders.nodes_of("u/ann")) == set()


def test_a_clean_session_and_a_stored_one_end_only_themselves() -> None:
    """A group tells who has a device before who has it no more, so the end of what was before may be told after."""
    holders = Holders(60.0)
    holders.held(PHONE, 1, 7)
    holders.held(PHONE, 1, 0)
    holders.released(PHONE, 1, 7)
    assert holders.holder(PHONE) == 1
    holders.held(PHONE, 2, 0)
    holders.released(PHONE, 1, 0)
    assert holders.holder(PHONE) == 2
    holders.held(PHONE, 3, 8)
    holders.released(PHONE, 2, 0)
    assert holders.holder(PHONE) == 3
    assert holders.is_late(PHONE, 7)
    holders.released(PHONE, 3, 8)
    assert holders.holder(PHONE) == 0
    assert list(holders.nodes_of(PHONE.user)) == []


def test_what_comes_late_of_a_node_that_lost_the_device_counts_for_nothing() -> None:
    holders = Holders(60.0)
    holders.held(PHONE, 1, 4)
    holders.held(PHONE, 2, 5)
    assert holders.is_late(PHONE, 4)
    holders.held(PHONE, 0, 5)
    assert holders.is_late(PHONE, 4)  # also where nobody has it any more
    assert not holders.is_late(PHONE, 5)
    assert not holders.is_late(TABLET, 1)


def told(operations: list[Operation]) -> list[tuple[str, str]]:
    """What a group tells, in the order of the routes: additions first."""
    changes: list[Change] = [c for op in operations if isinstance(op, Announce) for c in op.changes]
    return [(c.kind, c.filter) for kind in (LISTEN, UNLISTEN) for c in changes if c.kind == kind]


def test_what_is_taken_back_and_wanted_again_in_one_group_is_not_told() -> None:
    wanted = Interest(7)
    assert told(wanted.listen("a") + wanted.listen("a")) == [(LISTEN, "a")]
    wanted.begin_group()
    group = wanted.unlisten("a") + wanted.unlisten("a") + wanted.listen("a")
    assert told(group) == []
    group = wanted.unlisten("a")
    assert told(group) == [(UNLISTEN, "a")]
    wanted.begin_group()
    assert told(wanted.listen("a")) == [(LISTEN, "a")]


async def test_readers_that_come_and_go_wait_for_storage_as_one_step_for_each_inbox() -> None:
    """A long poll that storage cannot answer is asked again and again."""
    steps: list[Step] = []
    timers: list[Callable[[], None]] = []

    def told() -> list[Change]:
        return [each for step in steps for operation in step.apply() for each in operation.changes]  # type: ignore[union-attr]

    async with cluster(1) as made:
        at = made.nodes[0].server._cluster
        assert at is not None
        exchange = InterestExchange(
            Interest(7), at.routes, at.mailbox, steps.append, lambda _, callback: timers.append(callback)
        )
        for _ in range(100):
            exchange.watch("u/ann")
            exchange.unwatch("u/ann")
        assert len(steps) == 1
        assert told() == [Change(HELD, "u/ann", node=7)]
        steps.clear()
        for timer in timers:
            timer()
        exchange.watch("u/ann")
        assert len(steps) == 1
        assert told() == []
        exchange.unwatch("u/ann")
        timers[-1]()
        assert told() == [Change(HELD, "u/ann")]
