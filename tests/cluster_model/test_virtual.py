"""The loop of virtual time itself."""

from __future__ import annotations

import asyncio

import pytest

from tests.cluster_model.virtual import VirtualLoop, run


@pytest.mark.parametrize("rounds", range(8))
def test_no_task_outlives_its_loop(rounds: int) -> None:
    """However many rounds after the end a timer fires that begins one: it would be collected, and told of, in another test."""

    def fire(loop: VirtualLoop, left: int) -> None:
        if left:
            loop.call_later(0, fire, loop, left - 1)
        else:
            loop.create_task(asyncio.sleep(1))  # not a wait: the time is virtual

    async def main(loop: VirtualLoop) -> VirtualLoop:
        loop.call_later(0, fire, loop, rounds)
        return loop

    assert asyncio.all_tasks(run(main)) == set()
