"""One that publishes as fast as it can has its share of a group, and many that connect at once have theirs of the loop."""

from __future__ import annotations

import asyncio
from functools import partial

from broker.limits.turns import AT_ONCE, Turns
from broker.packets.model import PubAck, Publish
from broker.publication import Publication
from tests.support.broker import running
from tests.support.until import until

SHARE, FLOOD = 5, 50


async def test_a_flood_fills_no_group(version: int) -> None:
    async with running(limits={"connection_share": SHARE}) as broker:
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


async def test_who_is_alone_has_all_there_is() -> None:
    async with running(limits={"connection_share": SHARE, "connection_pending": 20}) as broker:
        greedy = await broker.client("greedy")
        async with broker.held() as commits:
            greedy.send(*(Publish("t", bytes([number]), 1, packet_id=number) for number in range(1, FLOOD + 1)))
            await commits.arrived()
            await until(lambda: len(commits.waiting) + broker.server.pipeline.pending == 20)
        assert [(await greedy.expect(PubAck)).packet_id for _ in range(FLOOD)] == [*range(1, FLOOD + 1)]


async def test_of_many_connects_some_have_their_turn_in_each_round_of_the_loop() -> None:
    turns, seen, rounds = Turns(), list[int](), 0
    at_once = [turns.take(partial(seen.append, number)) for number in range(10 * AT_ONCE)]
    assert at_once == [True] * AT_ONCE + [False] * 9 * AT_ONCE
    while len(seen) < 10 * AT_ONCE:
        before = len(seen)
        await asyncio.sleep(0)  # not a wait: one round
        rounds += 1
        assert len(seen) <= before + AT_ONCE
    assert rounds >= 9
    assert seen == list(range(10 * AT_ONCE))
    await asyncio.sleep(0)  # not a wait: one round
    assert turns.take(partial(seen.append, -1))
