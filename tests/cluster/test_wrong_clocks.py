"""A node whose machine's clock is wrong by hours: nothing that it stores, or removes, is of another age for that."""

from __future__ import annotations

import time

import pytest

from broker.clock import ServerTime
from tests.cluster.test_one_at_a_time import JOBS, jobs_of
from tests.support.cluster import cluster

RETENTION = {**JOBS, "jobs": {"retention": {"rules": [{"filter": "#", "max_age": "1h"}]}}}


@pytest.mark.parametrize("stores", [-2, 0, 2])
@pytest.mark.parametrize("removes", [-2, 0, 2])
async def test_what_is_young_stays(stores: int, removes: int) -> None:
    """! Retention by age removed at once what a node had stored whose clock was two hours behind."""
    async with cluster(0, plugins=RETENTION) as made:
        one = await made.start(ServerTime(wall=lambda: time.time() + removes * 3600))
        other = await made.start(ServerTime(wall=lambda: time.time() + stores * 3600))
        publisher = await other.client("publisher", 5)
        await publisher.publish("news", b"hello")
        (message,) = await other.storage.read_conversation("news")
        assert abs(message.time - made.database.now()) < 60_000
        await jobs_of(one).anywhere("run", "retention")
        assert (await jobs_of(one).ended("retention"))["last"]["outcome"] == "done"
        assert await other.storage.conversation_bounds("news") == (1, 1)
