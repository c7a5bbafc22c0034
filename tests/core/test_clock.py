"""The timer wheel: every call comes, once, at its deadline or up to a tick later, never earlier."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.clock import TICK, ServerTime, Timer, Wheel


class Loop:
    """An event loop's clock, set by hand."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.soon: list[asyncio.Handle] = []

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def call_at(self, when: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        self.due.append((when, call))
        return asyncio.TimerHandle(when, call, (), self)  # type: ignore[arg-type]

    def call_soon(self, call: Callable[[int], None], current: int) -> asyncio.Handle:
        self.soon.append(asyncio.Handle(call, (current,), self))  # type: ignore[arg-type]
        return self.soon[-1]

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self.due = []

    def advance(self, to: float) -> None:
        self.now = to
        while due := [entry for entry in self.due if entry[0] <= self.now]:
            self.due.remove(due[0])
            due[0][1]()
            while self.soon:
                self.round()

    def round(self) -> None:
        """What was asked for before it."""
        asked, self.soon = self.soon, []
        for handle in asked:
            if not handle.cancelled():
                handle._run()

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
        assert now <= wheel.latest.time <= now + TICK, "what is noted with each packet is no time that has passed"
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

    def again() -> None:
        wheel.at(10.5 + offset, lambda: came.append(loop.now))

    wheel.at(10.5, again)
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


@pytest.mark.parametrize("rounds", [0, 1])
def test_nor_where_it_stops_while_a_loop_that_stood_still_reads(rounds: int) -> None:
    loop, wheel, came = stood_still()
    for _ in range(rounds):
        loop.round()
    wheel.stop()
    loop.advance(20.0)
    assert came == []


def stood_still() -> tuple[Loop, Wheel, list[float]]:
    """A loop that is late by many ticks, whose wheel has just noticed. A call is due, and another one later."""
    loop = Loop(0.0)
    wheel = Wheel(loop)  # type: ignore[arg-type]
    wheel.start()
    came: list[float] = []
    for deadline in (1.0, 10.5):
        wheel.at(deadline, partial(came.append, deadline))
    loop.now = 10.0
    when, call = loop.due.pop()
    assert when <= TICK
    call()
    return loop, wheel, came


def test_a_loop_that_stood_still_reads_before_a_deadline_passes() -> None:
    """What is asked for comes, in the next round, before the sockets: so it is the round after that."""
    loop, _, came = stood_still()
    for _ in range(2):
        assert came == []
        loop.round()
    assert came == [1.0]


def test_what_was_noted_while_the_loop_stood_still_is_no_time_that_has_passed() -> None:
    loop, wheel, _ = stood_still()
    noted = wheel.latest
    loop.round()
    loop.now = 12.0  # what it reads takes long
    assert wheel.latest is noted
    loop.round()
    assert noted.time == 12.0
    loop.advance(13.0)
    assert noted.time == 12.0


def test_a_deadline_that_comes_while_it_reads_waits_for_the_next_tick() -> None:
    """It may be that of a client whose packet has come since."""
    loop, wheel, came = stood_still()
    loop.round()
    loop.now = 12.0
    loop.round()
    assert came == [1.0]
    assert wheel.reached == 10.0
    loop.advance(12.0)
    assert came == [1.0, 10.5]


@given(deadlines=st.lists(times, max_size=20), cancelled=st.sets(st.integers(0, 19)), when=times)
def test_what_is_cancelled_is_not_called_and_not_kept(deadlines: list[float], cancelled: set[int], when: float) -> None:
    loop = Loop(0.0)
    wheel = Wheel(loop)  # type: ignore[arg-type]
    wheel.start()
    came: list[int] = []
    timers = [wheel.at(deadline, lambda number=number: came.append(number)) for number, deadline in enumerate(deadlines)]  # type: ignore[misc]
    loop.advance(when)
    before = list(came)
    for number in cancelled:
        if number < len(timers):
            timers[number].cancel()
            timers[number].cancel()  # changes nothing
    assert sum(map(len, wheel._slots.values())) == len(set(range(len(timers))) - cancelled - set(before))
    loop.advance(100.0)
    assert sorted(came) == sorted(set(before) | (set(range(len(timers))) - cancelled))
    assert wheel._slots == {}


def test_a_call_may_cancel_another_of_its_tick() -> None:
    loop = Loop(0.0)
    wheel = Wheel(loop)  # type: ignore[arg-type]
    wheel.start()
    timers: list[Timer] = []
    came: list[int] = []

    def call(number: int) -> None:
        came.append(number)
        timers[1 - number].cancel()

    timers += [wheel.at(1.0, partial(call, number)) for number in range(2)]
    loop.advance(2.0)
    assert came == [0]


# --- the time of what expires ----------------------------------------------------------------------------------------


class Machine:
    """A machine's clocks: time passes, and somebody sets the wall clock."""

    def __init__(self) -> None:
        self.up = 1000.0
        self.error = 0.0

    def time(self) -> ServerTime:
        return ServerTime(lambda: 1_700_000_000 + self.up + self.error, lambda: self.up)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e9, 1e9))))
def test_what_expires_is_measured_in_a_time_that_never_steps(steps: list[tuple[float, float]]) -> None:
    machine = Machine()
    time = machine.time()
    began, up = time.now(), machine.up
    for passed, error in steps:
        machine.up, machine.error = machine.up + passed, error
        assert abs(time.now() - began - (machine.up - up) * 1000) <= 2
        assert abs(time.wall() - (1_700_000_000 + machine.up + error) * 1000) <= 1


def test_it_goes_on_where_it_was_at_the_next_start() -> None:
    """A start in a wrong year leaves times of that year behind; what is stored then still ends in its time."""
    machine = Machine()
    machine.error = 3650 * 86400.0
    last = machine.time().now()
    machine.error = 0.0
    time = machine.time()
    time.not_before(last)
    assert last <= time.now() <= last + 1
    machine.up += 5
    assert abs(time.now() - last - 5000) <= 2
    time.not_before(last - 1)
    assert abs(time.now() - last - 5000) <= 2


async def test_with_a_real_loop() -> None:
    loop = asyncio.get_running_loop()
    wheel = Wheel(loop)
    wheel.start()
    came = asyncio.Event()
    deadline = wheel.now() + 0.3
    wheel.at(deadline, came.set)
    async with asyncio.timeout(30):
        await came.wait()
    assert wheel.now() >= deadline
    wheel.stop()


def test_a_followed_clock_is_come_nearer_to_without_a_step_and_never_back() -> None:
    uptime, database = 100.0, 5_000.0
    time = ServerTime(wall=lambda: 9_999_999.0, uptime=lambda: uptime)
    time.start_at(int(database * 1000))
    assert time.now() == 5_000_000
    database += 3600  # another member is primary now, whose clock is wrong by an hour
    before = time.now()
    for _ in range(100):
        uptime, database = uptime + 1, database + 1
        time.follow(int(database * 1000))
        assert 1000 <= time.now() - before <= 1101
        before = time.now()
    database -= 7200
    for _ in range(100):
        uptime, database = uptime + 1, database + 1
        time.follow(int(database * 1000))
        assert 899 <= time.now() - before <= 1000
        before = time.now()
