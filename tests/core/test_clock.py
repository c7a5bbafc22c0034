"""The timer wheel: every call comes, once, at its deadline or up to a tick later, never earlier."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.clock import TICK, Wheel


class Loop:
    """An event loop's clock, set by hand."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def call_at(self, when: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        self.due.append((when, call))
        return asyncio.TimerHandle(when, call, (), self)  # type: ignore[arg-type]

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self.due = []

    def advance(self, to: float) -> None:
        self.now = to
        while due := [entry for entry in self.due if entry[0] <= self.now]:
            self.due.remove(due[0])
            due[0][1]()

    def timer(self) -> float:
        (entry,) = self.due  # one timer, however many deadlines
        return entry[0]


times = st.floats(0, 20, allow_nan=False)


@given(start=times, deadlines=st.lists(times, max_size=20), steps=st.lists(times, max_size=20))
def test_each_call_comes_once_and_never_early(start: float, deadlines: list[float], steps: list[float]) -> None:
    loop = Loop(start)
    wheel = Wheel(loop)  # type: ignore[arg-type]
    wheel.start()
    came: dict[int, float] = {}
    for index, deadline in enumerate(deadlines):

        def call(index: int = index) -> None:
            assert index not in came
            came[index] = loop.now

        wheel.at(deadline, call)
    now = start
    for step in sorted(steps):
        now = max(now, step)
        loop.advance(now)
        assert loop.timer() <= now + TICK
        for index, deadline in enumerate(deadlines):
            if index in came:
                assert came[index] >= deadline
            else:
                assert now < max(deadline, start) + TICK
    loop.advance(100.0)
    assert sorted(came) == list(range(len(deadlines)))


@given(late=st.floats(0, 3, allow_nan=False), offset=st.floats(-2, 2, allow_nan=False))
def test_a_call_may_set_the_next(late: float, offset: float) -> None:
    """Also where its deadline has passed already, and where the loop is far behind."""
    loop = Loop(10.0)
    wheel = Wheel(loop)  # type: ignore[arg-type]
    wheel.start()
    came: list[float] = []
    wheel.at(10.5, lambda: wheel.at(10.5 + offset, lambda: came.append(loop.now)))
    loop.advance(10.5 + late)
    loop.advance(20.0)
    assert len(came) == 1
    assert came[0] >= 10.5 + offset


def test_a_call_that_fails_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop(0.0)
    wheel = Wheel(loop)  # type: ignore[arg-type]
    wheel.start()
    came: list[int] = []
    wheel.at(1.0, lambda: came.append(1 // 0))
    wheel.at(1.0, lambda: came.append(1))
    wheel.at(2.0, lambda: came.append(2))
    with caplog.at_level(logging.ERROR):
        loop.advance(3.0)
    assert came == [1, 2]
    assert "a deadline failed" in caplog.text


def test_nothing_is_called_after_stop() -> None:
    loop = Loop(0.0)
    wheel = Wheel(loop)  # type: ignore[arg-type]
    wheel.start()
    came: list[int] = []
    wheel.at(1.0, lambda: came.append(1))
    wheel.stop()
    loop.advance(5.0)
    assert came == []


async def test_with_a_real_loop() -> None:
    loop = asyncio.get_running_loop()
    wheel = Wheel(loop)
    wheel.start()
    came = asyncio.Event()
    deadline = wheel.now() + 0.3
    wheel.at(deadline, came.set)
    async with asyncio.timeout(5):
        await came.wait()
    assert wheel.now() >= deadline
    wheel.stop()
