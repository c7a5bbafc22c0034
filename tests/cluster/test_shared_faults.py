"""Shared subscriptions over several nodes, and nodes that die, freeze, or do not reach the database: nothing is lost, and QoS 2
comes once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from storage.cluster import GONE
from storage.records import DeviceKey, Operation, Progress
from tests.support.cluster import Cluster, Node, cluster
from tests.support.crew import GROUP, all_came, all_once, back, counted, division, member, publish
from tests.support.until import until

LEASE = 0.8


async def failed_over(made: Cluster) -> None:
    """The first node is."""
    first = min(made.database.nodes)
    await until(lambda: made.database.nodes[first].state == GONE, "failed over")


async def test_what_a_dead_nodes_members_had_not_acknowledged_comes_to_members_elsewhere() -> None:
    """! Its claims are free again."""
    async with cluster(2, errors=True, lease=LEASE) as made:
        one, other = made.nodes
        silent = await member(one, "silent", silent=True)
        payloads = await publish(await other.client("publisher"), 10)
        await all_came([silent], payloads)
        helper = await member(other, "helper")
        await one.kill()
        await all_once([helper], payloads)


async def test_qos_2_that_a_dead_node_sent_waits_for_its_device_and_the_rest_does_not() -> None:
    """! Nobody else is given what a device may have, and its device finishes it wherever it connects next."""
    async with cluster(3, errors=True, lease=LEASE) as made:
        one, other, third = made.nodes
        silent = await member(one, "silent", 2, silent=True)
        publisher = await other.client("publisher")
        sent = await publish(publisher, 5, 2)
        await all_came([silent], sent)
        clean = await member(one, "clean", 1, clean=True, silent=True)
        more = await publish(publisher, 6, 1, start=10)
        await all_came([silent, clean], more)
        helper = await member(other, "helper", 2)
        ones = {packet.payload for packet in [*silent.packets, *clean.packets] if packet.qos == 1}
        await one.kill()
        await all_came([helper], ones)
        await failed_over(made)
        assert not set(helper.got) & set(sent)
        assert sorted((await division(other)).held) == [1, 2, 3, 4, 5]
        again = await back(third, "silent")
        await all_came([again], sent)
        await until(lambda: again.completed == 5)
        assert not set(helper.got) & set(sent)

        async def nothing_is_left() -> bool:
            found = await division(other)
            return not (found.held or found.claimed or found.free)

        await until(nothing_is_left)


async def test_qos_2_that_was_finished_is_not_given_again_when_the_node_dies() -> None:
    """! Its device's stored state keeps it until the group's says that it is done: that never comes here."""
    async with cluster(2, errors=True, lease=LEASE) as made:
        one, other = made.nodes
        quick = await member(one, "quick", 2, silent=True)
        payloads = await publish(await other.client("publisher"), 5, 2)
        await all_came([quick], payloads)
        part = one.storage.cluster
        assert part is not None

        async def never(*told: object) -> None:
            await asyncio.Event().wait()

        part.shared_inboxes.settle = part.shared_inboxes.exchange = never  # type: ignore[method-assign, assignment]
        quick.finish()
        (session,) = one.server.sessions.named("quick")
        await until(lambda: not len(session.window))
        one.server.delivery.save(session)

        async def no_packet_id_is_in_use() -> bool:
            device = await other.storage.device(DeviceKey("c/quick", "quick"))
            return device is not None and not any(entry.packet_id for entry in device.inflight)

        await until(no_packet_id_is_in_use)
        helper = await member(other, "helper", 2)
        await one.kill()
        await failed_over(made)
        await all_came([helper], await publish(await other.client("publisher"), 1, 2, start=10))
        assert helper.got == [b"10"]


@pytest.mark.parametrize("landed", [False, True], ids=["before", "after"])
async def test_what_a_frozen_node_held_comes_once_whoever_has_its_device_then(landed: bool) -> None:
    """! What is stored of the device says whether it is sent it: frozen right before, and right after that is stored."""
    async with cluster(2, errors=True, lease=6.0) as made:
        one, other = made.nodes
        moves = await member(one, "moves", 2)
        publisher = await other.client("publisher")
        async with progress_held(one, landed=landed) as held:
            payloads = await publish(publisher, 1, 2)
            await held.wait()
            again = await back(other, "moves", silent=True)
            helper = await member(other, "helper", 2)
            if landed:
                await all_came([again], payloads)
        await until(lambda: not len(one.server.shared_groups))
        payloads += await publish(publisher, 4, 2, start=10)
        await all_once([moves, again, helper], payloads)
        again.finish()
        await until(lambda: again.completed + helper.completed == 5)

        async def nothing_is_left() -> bool:
            found = await division(other)
            return not (found.held or found.claimed or found.free)

        await until(nothing_is_left)


@asynccontextmanager
async def progress_held(node: Node, *, landed: bool) -> AsyncIterator[asyncio.Event]:
    """While entered, a commit with a message in flight is held, once it has ``landed`` or before; set when there is one."""
    storage, go_on, found = node.server.storage, asyncio.Event(), asyncio.Event()
    real = storage.commit

    async def commit(group: Sequence[Operation]) -> None:
        if not any(isinstance(op, Progress) and op.inflight for op in group):
            await real(group)
            return
        if landed:
            await real(group)
        found.set()
        await go_on.wait()
        if not landed:
            await real(group)

    storage.commit = commit  # type: ignore[method-assign]
    try:
        yield found
    finally:
        storage.commit = real  # type: ignore[method-assign]
        go_on.set()


async def test_without_the_database_members_get_what_there_is_once_it_is_back() -> None:
    async with cluster(2, errors=True, lease=4.0) as made:
        one, other = made.nodes
        quick = await member(one, "quick")
        publisher = await other.client("publisher")
        one.storage.faults.lose_answers = True
        payloads = await publish(publisher, 10)
        await until(lambda: GROUP in other.server.trie.match("work/now").recipients)
        one.storage.faults.lose_answers = False
        await all_came([quick], payloads)
        assert counted([quick]) == Counter(payloads)
