"""The pipeline: order, acknowledgement only after the commit, hooks, and storage that is away (laws 1, 4, 6 and 7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.counters import Counters
from broker.hooks import Group, GroupPlugin
from broker.pipeline import OVERHEAD, HookFailed, Pipeline, Step
from broker.publication import Outgoing, Publication
from storage.errors import FencedOut, MessageRefused, StorageUnavailable
from storage.records import Append, DeviceKey, Operation, Release
from tests.support.until import until

TIMEOUT = 10


class Store:
    """Takes groups, one at a time; each waits for `let` unless ``gated`` is off. ``answers`` is what the next ones do."""

    def __init__(self) -> None:
        self.gated = False
        self.tried: list[list[Operation]] = []
        self.committed: list[Operation] = []
        self.answers: list[Callable[[Sequence[Operation]], None] | Exception] = []
        self.busy = False
        self._gate = asyncio.Semaphore(0)

    def let(self, count: int = 1) -> None:
        for _ in range(count):
            self._gate.release()

    async def commit(self, group: Sequence[Operation]) -> None:
        assert not self.busy, "two groups at once"
        self.busy = True
        self.tried.append(list(group))
        try:
            if self.gated:
                await self._gate.acquire()
            else:
                await asyncio.sleep(0)
            answer = self.answers.pop(0) if self.answers else None
            if isinstance(answer, Exception):
                raise answer
            if answer is not None:
                answer(group)
            for op in group:
                if op.error is None:
                    self.committed.append(op)
        finally:
            self.busy = False


class Recorder:
    """The router, and the steps: everything that happens, in order."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.events: list[tuple[str, str]] = []
        self.acked: list[str] = []
        self.refused: dict[str, Exception] = {}

    def number(self, publication: Publication) -> None:
        self.events.append(("route", publication.message.topic))
        publication.message.id = len(self.events)

    def decided(self) -> None:
        """Nothing hangs on it here."""

    def committed(self, publications: list[Publication]) -> None:
        for publication in publications:
            name = publication.message.topic
            if publication.error is not None:
                self.refused[name] = publication.error
                continue
            assert publication in self.store.committed, f"{name} was acknowledged and is not stored"
            self.events.append(("ack", name))
            self.acked.append(name)


class Mark(Step):
    def __init__(self, recorder: Recorder, name: str, *operations: Operation) -> None:
        self.recorder = recorder
        self.name = name
        self.operations = operations

    def apply(self) -> Sequence[Operation]:
        self.recorder.events.append(("apply", self.name))
        return self.operations

    def done(self) -> None:
        assert all(op in self.recorder.store.committed for op in self.operations)
        self.recorder.events.append(("done", self.name))


class Source:
    """A socket that was told to wait."""

    def __init__(self) -> None:
        self.resumed = asyncio.Event()

    def resume_submitting(self) -> None:
        self.resumed.set()


def message(name: str, payload: bytes = b"") -> Publication:
    return Publication(Outgoing(name, "u/a", "d", 1, payload))


class Bench:
    """A started pipeline over a `Store`."""

    def __init__(self, *plugins: GroupPlugin, pending_bytes: int = 1 << 20, hook_timeout: float = 5.0, queue: int = 4) -> None:
        self.store = Store()
        self.recorder = Recorder(self.store)
        self.counters = Counters()
        self.fenced = 0
        self.pipeline = Pipeline(
            self.store,
            self.recorder,
            self.counters,
            pending_bytes=pending_bytes,
            hook_timeout=hook_timeout,
            after_queue=queue,
            on_fenced=self._fence,
        )
        self.pipeline.start(plugins)

    def _fence(self) -> None:
        self.fenced += 1

    async def settled(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            await self.pipeline._idle.wait()

    async def stop(self) -> None:
        await self.pipeline.stop(TIMEOUT)


def plugin(**hooks: Any) -> GroupPlugin:
    """A plugin with these coroutine functions as hooks."""
    made: GroupPlugin = type("Plugin", (GroupPlugin,), {"__init__": lambda self: None, **hooks})()
    return made


async def test_everything_of_a_group_is_durable_before_anything_of_it_is_acknowledged() -> None:
    bench = Bench()
    bench.store.gated = True
    bench.pipeline.submit(message("a"))
    bench.pipeline.submit(Mark(bench.recorder, "s", Release(("u/a", "d"), 1)))  # type: ignore[arg-type]
    await until(lambda: bench.store.busy)
    assert bench.recorder.acked == []
    bench.store.let()
    await bench.settled()
    assert bench.recorder.events == [("route", "a"), ("apply", "s"), ("done", "s"), ("ack", "a")]
    await bench.stop()


async def test_what_gathers_during_a_commit_is_one_group() -> None:
    bench = Bench()
    bench.store.gated = True
    bench.pipeline.submit(message("first"))
    await until(lambda: bench.store.busy)
    for number in range(100):
        bench.pipeline.submit(message(str(number)))
    assert bench.pipeline.pending == 100
    bench.store.let(2)
    await bench.settled()
    assert [len(group) for group in bench.store.tried] == [1, 100]
    assert bench.recorder.acked == ["first", *map(str, range(100))]
    await bench.stop()


async def test_a_group_is_matched_only_when_the_one_before_is_durable() -> None:
    bench = Bench()
    bench.store.gated = True
    bench.pipeline.submit(message("a"))
    await until(lambda: bench.store.busy)
    bench.pipeline.submit(message("b"))
    await asyncio.sleep(0)
    assert ("route", "b") not in bench.recorder.events
    bench.store.let()
    await until(lambda: ("route", "b") in bench.recorder.events)
    bench.store.let()
    await bench.settled()
    await bench.stop()


async def test_a_hook_of_the_next_group_does_not_hold_back_an_ack() -> None:
    """Law 7: what is durable is acknowledged, however long a plugin thinks about the next message."""
    gate = asyncio.Event()

    async def before_ack(self: object, group: Group) -> None:
        if group.appends[0].message.topic == "slow":
            await gate.wait()

    bench = Bench(plugin(before_ack=before_ack))
    bench.store.gated = True
    bench.pipeline.submit(message("quick"))
    await until(lambda: bench.store.busy)
    bench.pipeline.submit(message("slow"))
    bench.store.let(2)
    await until(lambda: bench.recorder.acked == ["quick"])
    gate.set()
    await bench.settled()
    assert bench.recorder.acked == ["quick", "slow"]
    await bench.stop()


async def test_storage_away_is_asked_again_with_the_very_same_objects(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.store.answers = [StorageUnavailable("away"), StorageUnavailable("away"), OSError("odd")]
    items = [message(str(number)) for number in range(3)]
    for item in items:
        bench.pipeline.submit(item)
    await until(lambda: len(bench.store.tried) == 2)
    assert bench.recorder.acked == []
    assert bench.pipeline.unavailable_since is not None
    await bench.settled()
    assert all(group == items for group in bench.store.tried)  # compared by identity
    assert len(bench.store.tried) == 4
    assert bench.recorder.acked == ["0", "1", "2"]
    assert [event for event, _ in bench.recorder.events] == ["route"] * 3 + ["ack"] * 3  # numbered once
    assert bench.pipeline.unavailable_since is None
    assert bench.counters.storage_errors == 3
    assert caplog.text.count("storage is unavailable") == 1
    assert "storage is back" in caplog.text
    await bench.stop()


async def test_nothing_is_dropped_while_storage_is_away_and_sources_are_told_to_wait() -> None:
    bench = Bench(pending_bytes=10 * OVERHEAD)
    bench.store.gated = True
    bench.pipeline.submit(message("0"))
    await until(lambda: bench.store.busy)
    count = 1
    while not bench.pipeline.full:
        bench.pipeline.submit(message(str(count)))
        count += 1
    assert count == 11
    source, gone = Source(), Source()
    bench.pipeline.pause(source)
    bench.pipeline.pause(gone)
    bench.pipeline.forget(gone)
    bench.store.answers = [StorageUnavailable("away")]
    bench.store.let()
    await until(lambda: bench.store.busy)
    assert not source.resumed.is_set()
    bench.store.let(2)
    async with asyncio.timeout(TIMEOUT):
        await source.resumed.wait()
    await bench.settled()
    assert bench.recorder.acked == list(map(str, range(11)))
    assert not gone.resumed.is_set()
    await bench.stop()


async def test_payload_counts_towards_what_may_gather() -> None:
    bench = Bench(pending_bytes=1000)
    bench.store.gated = True
    bench.pipeline.submit(message("a"))
    await until(lambda: bench.store.busy)
    bench.pipeline.submit(message("b", b"x" * 743))
    assert not bench.pipeline.full
    bench.pipeline.submit(message("c"))
    assert bench.pipeline.full
    bench.store.let(2)
    await bench.settled()
    assert not bench.pipeline.full
    await bench.stop()


async def test_a_refused_message_is_refused_alone() -> None:
    bench = Bench()

    def refuse(group: Sequence[Operation]) -> None:
        group[1].error = MessageRefused("too large for the store")

    bench.store.answers = [refuse]
    for name in "abc":
        bench.pipeline.submit(message(name))
    await bench.settled()
    assert bench.recorder.acked == ["a", "c"]
    assert list(bench.recorder.refused) == ["b"]
    await bench.stop()


async def test_a_message_refused_before_it_was_submitted_keeps_its_place_and_is_never_stored() -> None:
    bench = Bench()
    denied = message("b")
    denied.error = MessageRefused("not allowed")
    for item in (message("a"), denied, message("c")):
        bench.pipeline.submit(item)
    await bench.settled()
    assert bench.recorder.acked == ["a", "c"]
    assert denied not in bench.store.tried[0]
    assert ("route", "b") not in bench.recorder.events
    await bench.stop()


@pytest.mark.parametrize("kind", ["raise", "hang", "cancel", "timeout"])
async def test_a_hook_that_fails_withholds_the_ack_of_the_culprit_alone(kind: str) -> None:
    async def before_ack(self: object, group: Group) -> None:
        if any(append.message.topic == "bad" for append in group.appends):
            if kind == "hang":
                await asyncio.Event().wait()
            raise {"raise": ValueError, "cancel": asyncio.CancelledError, "timeout": TimeoutError}.get(kind, ValueError)

    bench = Bench(plugin(before_ack=before_ack), hook_timeout=0.05)
    for name in ("a", "bad", "c"):
        bench.pipeline.submit(message(name))
    await bench.settled()
    assert bench.recorder.acked == ["a", "c"]
    assert isinstance(bench.recorder.refused["bad"], HookFailed)
    assert [op.message.topic for op in bench.store.committed if isinstance(op, Append)] == ["a", "c"]
    assert bench.counters.hook_errors == 2
    bench.pipeline.submit(message("after"))
    await bench.settled()
    assert bench.recorder.acked == ["a", "c", "after"]
    await bench.stop()


async def test_a_hook_sees_the_group_before_the_commit_and_may_add_to_it() -> None:
    extra = Release(("u/a", "d"), 9)  # type: ignore[arg-type]

    async def before_ack(self: object, group: Group) -> None:
        group.operations.append(extra)

    bench = Bench(plugin(before_ack=before_ack))
    bench.pipeline.submit(message("a"))
    await bench.settled()
    assert bench.store.tried[0][1] is extra
    await bench.stop()


async def test_what_a_hook_adds_survives_when_another_message_makes_it_fail() -> None:
    """The call that failed counts for nothing, also what it added; so do the culprit's operations."""

    async def before_ack(self: object, group: Group) -> None:
        for append in list(group.appends):
            group.operations.append(Release(DeviceKey("u/a", append.message.topic), 1))
            if append.message.topic == "bad":
                raise ValueError(append.message.topic)

    bench = Bench(plugin(before_ack=before_ack))
    for name in ("a", "bad", "b"):
        bench.pipeline.submit(message(name))
    await bench.settled()
    await bench.stop()
    assert bench.recorder.acked == ["a", "b"]
    assert list(bench.recorder.refused) == ["bad"]
    assert [op.device.client_id for op in bench.store.committed if isinstance(op, Release)] == ["a", "b"]


class Behind(Mark):
    """Can be applied once a message is decided."""

    def ready(self) -> bool:
        return self.recorder.events[-1][0] != "route"


async def test_a_step_that_hangs_on_a_message_before_it_waits_for_the_next_group() -> None:
    """Nothing overtakes it, and what sources may submit counts what was put back."""
    bench = Bench(pending_bytes=5 * OVERHEAD)
    store, recorder, source = bench.store, bench.recorder, Source()
    store.gated = True
    for item in (message("a"), Behind(recorder, "step"), message("b"), message("c"), message("d")):
        bench.pipeline.submit(item)
    assert bench.pipeline.full
    bench.pipeline.pause(source)
    await until(lambda: len(store.tried) == 1)
    assert recorder.events == [("route", "a")]
    assert bench.pipeline.pending == 4
    assert source.resumed.is_set()
    store.let(2)
    await bench.settled()
    assert [name for what, name in recorder.events if what != "ack"] == ["a", "step", "b", "c", "d", "step"]
    assert recorder.acked == ["a", "b", "c", "d"]
    assert len(store.tried) == 2
    await bench.stop()


async def test_a_hook_may_decide_that_a_message_is_not_stored() -> None:
    async def before_ack(self: object, group: Group) -> None:
        for append in group.appends:
            append.store = append.message.topic != "live"

    bench = Bench(plugin(before_ack=before_ack))
    live = message("live")
    bench.store.committed.append(live)  # there is nothing to store, so it counts as stored
    bench.pipeline.submit(live)
    await bench.settled()
    assert bench.store.tried == []
    assert bench.recorder.acked == ["live"]
    await bench.stop()


async def test_a_hook_after_the_ack_delays_nothing_and_its_failure_is_counted() -> None:
    gate = asyncio.Event()
    seen: list[str] = []

    async def after_ack(self: object, group: Group) -> None:
        await gate.wait()
        seen.append(group.appends[0].message.topic)
        if seen[-1] == "1":
            raise ValueError("on purpose")

    bench = Bench(plugin(after_ack=after_ack), queue=2)
    for number in range(6):
        bench.pipeline.submit(message(str(number)))
        await bench.settled()
    assert bench.recorder.acked == list(map(str, range(6)))
    assert seen == []
    gate.set()
    await until(lambda: len(seen) == 6 - bench.counters.hook_skipped)
    assert bench.counters.hook_skipped >= 3  # the queue is bounded: one under way, two waiting
    assert seen == sorted(seen)
    await until(lambda: bench.counters.hook_errors == 1)
    await bench.stop()


async def test_fenced_out_acknowledges_nothing_and_says_so() -> None:
    bench = Bench()
    bench.store.answers = [FencedOut("another node"), FencedOut("another node")]
    bench.pipeline.submit(message("a"))
    await until(lambda: bench.fenced > 0)
    bench.pipeline.submit(message("b"))
    await until(lambda: len(bench.store.tried) == 2)
    await bench.settled()
    assert bench.recorder.acked == []
    await bench.stop()


async def test_a_step_that_fails_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Step):
        def done(self) -> None:
            raise ValueError("on purpose")

    bench = Bench()
    bench.pipeline.submit(Broken())
    bench.pipeline.submit(message("a"))
    await bench.settled()
    assert bench.recorder.acked == ["a"]
    assert "a step of a committed group failed" in caplog.text
    await bench.stop()


@pytest.mark.parametrize("where", ["number", "apply", "decided", "committed"])
async def test_a_bug_of_ours_does_not_end_the_pipeline(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    class Broken(Step):
        def apply(self) -> Sequence[Operation]:
            raise ValueError("on purpose")

    def broken(argument: object) -> None:
        raise ValueError("on purpose")

    if where == "apply":
        bench.pipeline.submit(Broken())
    else:
        with monkeypatch.context() as patch:
            patch.setattr(bench.recorder, where, broken)
            bench.pipeline.submit(message("lost"))
            await bench.settled()
    bench.pipeline.submit(message("a"))
    await bench.settled()
    assert bench.recorder.acked == (["lost", "a"] if where == "decided" else ["a"])  # by then it is durable
    await bench.stop()


async def test_stop_commits_what_was_gathered() -> None:
    bench = Bench()
    for number in range(5):
        bench.pipeline.submit(message(str(number)))
    await bench.stop()
    assert bench.recorder.acked == list(map(str, range(5)))


async def test_stop_gives_up_after_its_grace() -> None:
    bench = Bench()
    bench.store.gated = True
    bench.pipeline.submit(message("never"))
    await until(lambda: bench.store.busy)
    async with asyncio.timeout(TIMEOUT):
        await bench.pipeline.stop(0.05)
    assert bench.recorder.acked == []


script = st.lists(
    st.one_of(
        st.tuples(st.just("message"), st.integers(1, 4)),
        st.tuples(st.just("step"), st.integers(1, 2)),
        st.tuples(st.just("let"), st.integers(1, 2)),
        st.tuples(st.just("fail"), st.integers(1, 2)),
        st.tuples(st.just("turn"), st.integers(1, 5)),
    ),
    max_size=30,
)


@given(script)
@settings(max_examples=60, deadline=None)
def test_any_interleaving_keeps_the_order(actions: list[tuple[str, int]]) -> None:
    """Whatever commits, fails and gathers when: one order for matching, one for what follows, nothing lost or doubled."""
    asyncio.run(play(actions))


async def play(actions: list[tuple[str, int]]) -> None:
    bench = Bench()
    bench.store.gated = True
    submitted: list[str] = []
    steps: list[str] = []
    for kind, count in actions:
        for _ in range(count):
            name = f"{kind}{len(submitted) + len(steps)}"
            if kind == "message":
                submitted.append(name)
                bench.pipeline.submit(message(name))
            elif kind == "step":
                steps.append(name)
                bench.pipeline.submit(Mark(bench.recorder, name, Release(("u/a", "d"), 1)))  # type: ignore[arg-type]
            elif kind == "let":
                bench.store.let()
            elif kind == "fail":
                if len(bench.store.answers) < 2:
                    bench.store.answers.append(StorageUnavailable("away"))
            else:
                await asyncio.sleep(0)
    bench.store.gated = False
    bench.store.let(100)
    await bench.settled()
    assert bench.recorder.acked == submitted
    order = [name for event, name in bench.recorder.events if event in ("route", "apply")]
    assert order == sorted(submitted + steps, key=lambda name: int(name.lstrip("mesagtp")))
    assert [name for event, name in bench.recorder.events if event == "done"] == steps
    await bench.stop()


async def test_storage_that_stays_away_is_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 6: however often it fails, the group is kept and acknowledged in the end."""
    monkeypatch.setattr("broker.pipeline._BACKOFF", (0.0,))
    bench = Bench()
    bench.store.answers = [StorageUnavailable("away")] * 50
    bench.pipeline.submit(message("a"))
    await bench.settled()
    assert bench.recorder.acked == ["a"]
    assert bench.counters.storage_errors == 50
    await bench.stop()
