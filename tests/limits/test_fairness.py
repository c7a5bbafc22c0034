"""One that publishes as fast as it can has its share of a group, and many that connect at once have theirs of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from broker.connection.connection import PART
from broker.counters import Counters
from broker.crowd import TIMES, Crowd
from broker.limits.turns import Pace, Turns
from broker.packets import encode
from broker.packets.model import Disconnect, PubAck, Publish
from broker.publication import Publication
from tests.support.broker import running
from tests.support.until import until

SHARE, FLOOD = 5, 50


async def test_a_flood_fills_no_group(version: int) -> None:
    """One publishes now and then: the other has the least of its share that there is."""
    async with running(limits={"connection_share": TIMES * SHARE}) as broker:
        greedy, polite = await broker.client("greedy", version), await broker.client("polite")
        pipeline = broker.server.pipeline
        async with broker.held() as commits:
            await polite.ping()
            polite.send(Publish("t", b"first", 1, packet_id=1))
            await commits.arrived()
            greedy.send(Publish("t", b"x", 1, packet_id=FLOOD + 1))
            polite.send(Publish("t", b"x", 1, packet_id=2))
            await until(lambda: pipeline.pending == 2)
            commits.let()  # both are in one group now: the broker knows that there are several
            await until(lambda: pipeline.crowd.several)
            greedy.send(*(Publish("t", bytes([number]), 1, packet_id=number) for number in range(1, FLOOD + 1)))
            await until(lambda: pipeline.pending == SHARE - 1)
            polite.send(Publish("t", b"last", 1, packet_id=3))
            await until(lambda: pipeline.pending == SHARE)
            commits.let()
            await until(lambda: len(commits.waiting) == SHARE)
            payloads = [item.message.payload for item in commits.waiting if isinstance(item, Publication)]
            assert payloads == [*(bytes([number]) for number in range(1, SHARE)), b"last"]
        assert [(await polite.expect(PubAck)).packet_id for _ in range(3)] == [1, 2, 3]
        acked = [(await greedy.expect(PubAck)).packet_id for _ in range(FLOOD + 1)]
        assert acked == [FLOOD + 1, *range(1, FLOOD + 1)]


async def test_what_one_sends_at_once_is_processed_in_parts() -> None:
    """Also where it goes as soon as it has sent that."""
    async with running(limits={"connection_share": 10_000, "connection_pending": 10_000}) as broker:
        counters, pipeline = broker.server.counters, broker.server.pipeline
        greedy, polite = await broker.client("greedy"), await broker.client("polite")
        pipeline.crowd.several = True
        pipeline.crowd.came(polite, 10_000)
        flood = [Publish("t", bytes(100), 1, packet_id=number) for number in range(1, 1001)]
        before = last = counters.messages_received
        most = 0
        greedy.send(*flood, Disconnect())
        while counters.messages_received < before + len(flood):
            await asyncio.sleep(0)  # not a wait: one round
            most, last = max(most, counters.messages_received - last), counters.messages_received
        assert most * 107 <= 2 * PART
        await until(lambda: counters.messages_stored == len(flood))


async def test_a_large_packet_is_one_part() -> None:
    """Each part is copied, and is a round of the event loop."""
    async with running() as broker:
        counters = broker.server.counters
        greedy = await broker.client("greedy")
        (connection,) = broker.server.connections
        broker.server.pipeline.crowd.several = True
        before, count = counters.messages_received, 4
        sent = [encode(Publish("t", bytes(5 * PART), 1, packet_id=number + 1), 4) for number in range(count)]
        connection.data_received(b"".join(sent))
        for _ in range(count):
            await asyncio.sleep(0)  # not a wait: one round
        assert counters.messages_received == before + count
        assert [(await greedy.expect(PubAck)).packet_id for _ in range(count)] == [*range(1, count + 1)]
        await greedy.ping()  # the socket is read again


async def test_what_comes_while_a_part_is_put_aside_comes_behind_it() -> None:
    """As below TLS: one read of the socket brings several records."""
    async with running() as broker:
        reader, greedy = await broker.client("reader"), await broker.client("greedy")
        await reader.subscribe("t", options=1)
        (connection,) = (one for one in broker.server.connections if one.client_id == "greedy")
        payloads = [number.to_bytes(2, "big") * 50 for number in range(600)]
        sent = b"".join(encode(Publish("t", payload, 1, packet_id=number + 1), 4) for number, payload in enumerate(payloads))
        broker.server.pipeline.crowd.several = True
        for start in range(0, len(sent), 2 * PART):
            connection.data_received(sent[start : start + 2 * PART])
        assert [message.payload for message in await reader.messages(len(payloads))] == payloads
        acked = [(await greedy.expect(PubAck)).packet_id for _ in payloads]
        assert acked == [*range(1, len(payloads) + 1)]
        await greedy.ping()  # the socket is read again


async def test_who_is_alone_has_all_there_is() -> None:
    async with running(limits={"connection_share": SHARE, "connection_pending": 20}) as broker:
        greedy = await broker.client("greedy")
        async with broker.held() as commits:
            greedy.send(*(Publish("t", bytes([number]), 1, packet_id=number) for number in range(1, FLOOD + 1)))
            await commits.arrived()
            await until(lambda: len(commits.waiting) + broker.server.pipeline.pending == 20)
        assert [(await greedy.expect(PubAck)).packet_id for _ in range(FLOOD)] == [*range(1, FLOOD + 1)]


def test_one_may_have_some_times_what_another_has() -> None:
    crowd = Crowd()
    seen = []
    for under_way in [((0, 1), (1, 1)), ((0, 40), (1, 1), (0, 60)), ((0, 60), (1, 5), (2, 3)), ((1, 9), (0, 60)), ((0, 90),)]:
        for source, count in under_way:
            crowd.came(source, count)
        crowd.next_group()
        seen.append(crowd.fair)
    assert seen == [TIMES, TIMES, 5 * TIMES, 9 * TIMES, 9 * TIMES]
    for _ in range(1000):
        crowd.came(0, 90)
        crowd.came(1, 1)
        crowd.next_group()
    assert crowd.fair == TIMES  # what was long ago is forgotten


async def rounds(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)  # not a wait: one round


async def test_of_many_connects_a_few_have_their_turn_in_each_round_of_the_loop() -> None:
    counters, seen = Counters(), list[str]()
    turns = Turns(Pace(500, counters), counters)

    def come(name: str, *, there: bool = True) -> bool:
        if there:
            seen.append(name)
        return there

    at_once = [take(turns, "attic", partial(come, f"flood {number}")) for number in range(20)]
    assert at_once == [True] * 4 + [False] * 16
    take(turns, "cellar", partial(come, "polite"))
    take(turns, "cellar", partial(come, "gone", there=False))
    await rounds(1)
    assert seen[4:] == ["flood 4", "polite", "flood 5", "flood 6"]  # who comes from elsewhere does not wait for the flood
    await rounds(1)
    assert seen[8:] == [f"flood {number}" for number in range(7, 11)]  # and who has gone has no turn
    await rounds(3)
    assert seen[12:] == [f"flood {number}" for number in range(11, 20)]
    assert not counters.limit_connect_pace
    await rounds(1)
    assert take(turns, "attic", partial(come, "last"))


async def test_whose_turn_fails_takes_none_from_the_others() -> None:
    turns, seen = Turns(Pace(500, Counters()), Counters()), list[int]()
    failed: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))

    def fail() -> bool:
        raise RuntimeError("a bug of ours")

    def come(number: int) -> bool:
        seen.append(number)
        return True

    for number in range(4):
        assert take(turns, "attic", partial(come, number))
    take(turns, "attic", fail)
    take(turns, "attic", partial(come, 4))
    await rounds(3)
    assert seen == [0, 1, 2, 3, 4]
    assert len(failed) == 1


def take(turns: Turns, address: str, call: Callable[[], bool]) -> bool:
    if turns.at_once(call):
        return True
    turns.wait(address, call)
    return False


async def test_while_messages_come_there_are_so_many_turns_a_second() -> None:
    counters, seen = Counters(), list[int]()
    turns = Turns(Pace(1e-3, counters), counters)

    def come(number: int) -> bool:
        seen.append(number)
        return True

    for number in range(3):
        counters.received(1, 10)
        take(turns, "attic", partial(come, number))
    await rounds(50)
    assert seen == [0]
    assert counters.limit_connect_pace == 2
    pace = Pace(0, counters)
    assert pace.wait() == 0
