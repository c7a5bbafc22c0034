"""Shared subscriptions whose members are on several nodes: without faults each message comes to one member, once."""

from __future__ import annotations

import asyncio

import pytest

from broker.packets.properties import Property
from storage.records import CloseSession, DeviceKey
from storage.shared_inboxes import SeqRange, joined
from tests.support.broker import Commits
from tests.support.cluster import Node, cluster
from tests.support.crew import GROUP, SHARE, Reader, all_came, all_once, back, counted, division, member, publish
from tests.support.until import until
from tests.support.wire import Client

GROUPS_DEVICE = DeviceKey(GROUP, "")


async def is_there(node: Node) -> bool:
    return await node.storage.device(GROUPS_DEVICE) is not None


def knows(node: Node) -> bool:
    return GROUP in node.server.trie.match("work/now").recipients


async def has_completed(reader: Reader) -> None:
    await until(lambda: reader.completed == len(reader.got))


async def let_until_it_ends(commits: Commits) -> None:
    """Let commits through up to the one that ends the group."""
    while True:
        waiting = await commits.arrived()
        if any(isinstance(op, CloseSession) and op.device == GROUPS_DEVICE for op in waiting):
            return
        commits.let()
        await until(lambda: commits.waiting is not waiting)  # noqa: B023 - asked before the next round


@pytest.mark.parametrize("qos", [0, 1, 2])
async def test_each_message_comes_to_one_member_wherever_it_is(qos: int) -> None:
    async with cluster(3) as made:
        one, other, third = made.nodes
        readers = [await member(one, "a", qos), await member(other, "b", qos), await member(third, "c", qos, clean=True)]
        publishers = [await node.client(f"publisher-{node.token}") for node in made.nodes]
        numbers = await asyncio.gather(*(publish(p, 60, qos=max(1, qos), start=k * 100) for k, p in enumerate(publishers)))
        await all_once(readers, [payload for payloads in numbers for payload in payloads])
        assert all(reader.got for reader in readers)


async def test_what_comes_while_no_member_is_connected_waits_for_the_next_one_anywhere() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        first = await member(one, "a")
        await one.lose(first.client, "a")
        payloads = await publish(await other.client("publisher"), 20)
        again = await back(other, "a")
        await all_once([again], payloads)


async def test_members_come_and_go_and_nothing_is_lost_or_doubled() -> None:
    async with cluster(3) as made:
        publisher = await made.nodes[0].client("publisher")
        readers = [await member(made.nodes[0], "stays", 2)]
        payloads: list[bytes] = []
        for round_ in range(6):
            node = made.nodes[round_ % 3]
            guest = await member(node, f"guest-{round_}", 2, clean=bool(round_ % 2))
            payloads += await publish(publisher, 20, 2, start=round_ * 100)
            await all_came([*readers, guest], payloads)
            await has_completed(guest)
            readers.append(guest)
            await (node.lose(guest.client, f"guest-{round_}") if round_ % 2 else guest.leave())
        await all_once(readers, payloads)


async def test_two_nodes_that_create_a_group_at_once_make_one() -> None:
    """! Creation never resets a group: what the first had to give out would be gone."""
    async with cluster(3) as made:
        one, other, third = made.nodes
        publisher = await third.client("publisher")
        first = await one.durable("a", 5)
        async with other.held() as commits:
            joining = asyncio.ensure_future(member(other, "b"))
            await commits.arrived()
            assert await first.subscribe(SHARE, options=1) == [1]
            await one.lose(first, "a")
            payloads = await publish(publisher, 10)
        second = await joining
        await all_once([second, await back(one, "a")], payloads)


async def test_members_that_are_full_do_not_hold_what_others_could_have() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        full = await member(one, "full", properties={Property.RECEIVE_MAXIMUM: 1}, silent=True)
        publisher = await one.client("publisher")
        payloads = await publish(publisher, 20)
        await until(lambda: len(full.got) == 1)
        quick = await member(other, "quick")
        payloads += await publish(publisher, 20, start=20)
        await all_once([full, quick], payloads)
        assert len(full.got) == 1


SMALL = {Property.MAXIMUM_PACKET_SIZE: 100}
"""A member that takes no large message."""


async def publish_large(client: Client, count: int, start: int = 1000) -> list[bytes]:
    payloads = [b"%d" % number + b" " * 200 for number in range(start, start + count)]
    for payload in payloads:
        assert not await client.publish("work/now", payload, 1)
    return payloads


async def all_done(node: Node, through: int) -> None:
    """Nobody has any entry of the group's inbox up to this one."""

    async def done() -> bool:
        found = await division(node)
        return found.offset == through and not (found.refused or found.free or found.claimed)

    await until(done)


async def test_what_no_member_of_a_node_can_take_goes_to_members_on_other_nodes() -> None:
    async with cluster(3) as made:
        one, other, third = made.nodes
        readers = [await member(node, f"small-{node.token}", properties=SMALL) for node in (one, other)]
        readers.append(await member(third, "large"))
        publisher = await one.client("publisher")
        payloads: list[bytes] = []
        for round_ in range(5):
            payloads += await publish_large(publisher, 4, 1000 + 4 * round_)
            payloads += await publish(publisher, 4, start=4 * round_)
        await all_once(readers, payloads)
        await all_done(one, len(payloads))


async def test_much_that_no_member_of_a_node_can_take() -> None:
    """More than a node gives back at once: the rest follows as the others take some."""
    async with cluster(2) as made:
        one, other = made.nodes
        small = await member(one, "small", properties={**SMALL, Property.RECEIVE_MAXIMUM: 1000})
        publisher = await one.client("publisher")
        full = await member(other, "large", properties={Property.RECEIVE_MAXIMUM: 1}, silent=True)
        payloads = await publish_large(publisher, 250)
        full.finish()
        await all_once([small, full], payloads)


async def test_what_no_connected_member_can_take_waits_for_the_absent_one_wherever_it_comes() -> None:
    async with cluster(3) as made:
        one, other, third = made.nodes
        large = await member(one, "large")
        await one.lose(large.client, "large")
        small = await member(one, "small", properties=SMALL)
        publisher = await other.client("publisher")
        payloads = [*await publish_large(publisher, 5), *await publish(publisher, 5)]
        await all_came([small], payloads[5:])
        again = await back(third, "large")
        await all_once([small, again], payloads)
        assert again.got[:5] == payloads[:5]


async def test_what_was_left_for_a_member_that_goes_for_good_is_given_up() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        large = await member(one, "large")
        await one.lose(large.client, "large")
        small = await member(one, "small", properties=SMALL)
        payloads = await publish_large(await one.client("publisher"), 5)

        async def left_for_it() -> bool:
            return joined((await division(one)).free) == [SeqRange(1, 5)]

        await until(left_for_it)
        assert (await (await other.socket(5)).connect("large", clean=True)).reason == 0
        await all_done(one, len(payloads))
        assert not small.got


async def test_what_a_disconnected_member_did_not_acknowledge_goes_to_a_member_on_another_node() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        silent = await member(one, "silent", silent=True)
        payloads = await publish(await one.client("publisher"), 10)
        await all_came([silent], payloads)
        helper = await member(other, "helper")
        await one.lose(silent.client, "silent")
        await all_once([helper], payloads)


async def test_qos_2_in_progress_goes_on_with_its_device_on_another_node() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        moves = await member(one, "moves", 2, silent=True)
        payloads = await publish(await one.client("publisher"), 5, 2)
        await all_came([moves], payloads)
        helper = await member(other, "helper", 2)
        again = await back(other, "moves")
        await all_came([again], payloads)
        assert all(packet.dup for packet in again.packets)
        await until(lambda: again.completed == 5)
        more = await publish(await one.client("publisher"), 5, 2, start=10)
        await all_came([again, helper], more)
        assert not set(helper.got) & set(payloads)

        async def nothing_is_left() -> bool:
            found = await division(one)
            return not (found.held or found.claimed or found.free) and found.offset == 10

        await until(nothing_is_left)


async def test_qos_2_ends_with_its_devices_session_on_whichever_node() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        silent = await member(one, "silent", 2, silent=True)
        helper = await member(other, "helper", 2, silent=True)
        payloads = await publish(await one.client("publisher"), 6, 2)
        await all_came([silent, helper], payloads)
        had = set(silent.got)
        await one.lose(silent.client, "silent")
        assert (await (await other.socket(5)).connect("silent", clean=True)).reason == 0

        async def settled() -> bool:
            return not (await division(one)).held

        await until(settled)
        assert not had & set(helper.got)


async def test_the_last_member_that_unsubscribes_ends_the_group_for_all_nodes() -> None:
    async with cluster(3) as made:
        one, other, third = made.nodes
        first, second = await one.durable("a", 5), await other.client("b", 5)
        for client in (first, second):
            assert await client.subscribe(SHARE, options=1) == [1]
        await one.lose(first, "a")
        assert await second.unsubscribe(SHARE) == [0]
        await second.quiet()
        assert await is_there(third)
        first = await third.durable("a", 5)
        assert await first.unsubscribe(SHARE) == [0]

        async def gone() -> bool:
            return not await is_there(one) and not any(knows(node) for node in made.nodes)

        await until(gone)
        publisher = await one.client("publisher")
        await publish(publisher, 3)
        assert await second.subscribe(SHARE, options=1) == [1]
        reader = Reader(second)
        await all_once([reader], await publish(publisher, 3, start=10))


async def test_a_group_that_somebody_joins_while_another_node_ends_it_goes_on() -> None:
    """! That node found nobody, and deletes the group as it was then."""
    async with cluster(2) as made:
        one, other = made.nodes
        first, second = await one.client("a", 5), await other.client("b", 5)
        assert await first.subscribe(SHARE, options=1) == [1]
        publisher = await other.client("publisher")
        groups = one.server.shared_groups
        async with one.held() as commits:
            unsubscribing = asyncio.ensure_future(first.unsubscribe(SHARE))
            waiting = await commits.arrived()
            commits.let()  # it is out
            await until(lambda: commits.waiting is not waiting)
            await unsubscribing
            await let_until_it_ends(commits)
            assert await second.subscribe(SHARE, options=1) == [1]
        assert len(groups) == 0
        reader = Reader(second)
        await all_once([reader], await publish(publisher, 5))
        await all_came([reader], await publish(await one.client("another"), 5, start=10))


async def test_a_group_that_nobody_has_ends_after_its_time() -> None:
    async with cluster(2, mqtt={"share_expiry": 0.2}) as made:
        one, other = made.nodes
        await (await member(one, "visitor", clean=True)).leave()

        async def gone() -> bool:
            return not await is_there(other) and not any(knows(node) for node in made.nodes)

        await until(gone)


async def test_a_group_that_a_device_has_does_not_end_by_time() -> None:
    async with cluster(2, mqtt={"share_expiry": 0.0}) as made:
        one, other = made.nodes
        stays = await member(one, "stays")
        await one.lose(stays.client, "stays")
        await (await member(other, "visitor", clean=True)).leave()
        await until(lambda: not len(other.server.shared_groups) and not len(one.server.shared_groups))
        payloads = await publish(await one.client("publisher"), 3)
        await all_once([await back(other, "stays")], payloads)


async def test_retention_counts_what_a_group_has_not_done() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        silent = await member(one, "silent", properties={Property.RECEIVE_MAXIMUM: 2}, silent=True)
        publisher = await one.client("publisher")
        await publish(publisher, 1)
        await until(lambda: len(silent.got) == 1)
        quick = await member(other, "quick")
        await publish(publisher, 9, start=1)
        await until(lambda: len(counted([silent, quick])) == 10)

        async def lowest_is(offset: int) -> bool:
            return await one.storage.lowest_offset(GROUP) == offset

        await until(lambda: lowest_is(0))
        await one.lose(silent.client, "silent")
        await until(lambda: lowest_is(10))


async def test_what_no_inbox_holds_comes_to_one_member_of_all() -> None:
    async with cluster(3, policies=[{"filter": "work/#", "mode": "none"}]) as made:
        readers = [await member(node, f"m{node.token}") for node in made.nodes]
        payloads: list[bytes] = []
        for node in made.nodes:
            payloads += await publish(await node.client(f"publisher-{node.token}"), 5, start=node.token * 100)
        await all_once(readers, payloads)


async def test_a_node_that_leaves_gives_back_what_its_members_did_not_take() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        silent = await member(one, "silent", silent=True)
        payloads = await publish(await other.client("publisher"), 10)
        await all_came([silent], payloads)
        helper = await member(other, "helper")
        await one.server.stop()
        await all_once([helper], payloads)
        assert (await division(other)).claimed.keys() <= {other.token}


async def test_a_group_that_ended_and_is_made_again_begins_behind_what_the_first_one_had() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        publisher = await other.client("publisher")
        first = await member(one, "a")
        await all_once([first], await publish(publisher, 5))
        unsubscriber = await other.durable("a", 5)
        assert await unsubscriber.unsubscribe(SHARE) == [0]

        async def gone() -> bool:
            return not await is_there(one)

        await until(gone)
        second = await member(other, "b")
        await all_once([second], await publish(publisher, 5, start=10))
