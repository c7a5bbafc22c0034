"""The publish path: order, acknowledgement only after the commit, hooks, and storage that is away (laws 1, 4, 6 and 7)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.access import AccessControl, SessionInfo
from broker.begun import Begun
from broker.clock import ServerTime
from broker.commits import Commits
from broker.config import Limits
from broker.counters import Counters
from broker.delivery import Delivery, SharedGroup
from broker.hooks import Group, GroupHooks, GroupPlugin, HookFailed
from broker.ids import Ids
from broker.pipeline import OVERHEAD, Batch, Pipeline, Step
from broker.publication import Acks, Origin, Outgoing, Publication
from broker.publish_path import PublishPath
from broker.retained import Retained
from broker.routing import Trie
from broker.sessions import Session
from storage.errors import DiskFull, FencedOut, MessageRefused, StorageUnavailable, StorageUnusable
from storage.records import Append, DeviceKey, InboxEntry, Message, Operation, Release
from tests.support.seeds import examples
from tests.support.until import until

TIMEOUT = 10


class NoPath:
    """No group is made: a test takes what waits."""

    async def store(self, pipeline: Pipeline) -> None:
        raise AssertionError

    def finish(self, batch: object) -> None:
        raise AssertionError


async def test_since_when_the_oldest_of_a_group_waits() -> None:
    """Of what is left of a group, or was not taken with it, never less than that."""
    pipeline = Pipeline(NoPath(), pending_bytes=1 << 20, failed=print)
    one, two, three, four = Step(), Step(), Step(), Step()
    pipeline.submit(one)
    later = perf_counter()
    pipeline.submit(two)
    assert pipeline.take(2) == [one, two]
    first = pipeline.since
    assert first <= later
    pipeline.leave([two])
    pipeline.submit(three)
    assert pipeline.take(1) == [two]
    assert pipeline.since == first, "it came with the group before"
    pipeline.leave([])
    pipeline.submit(four)
    assert pipeline.take(2) == [three, four]
    assert first < pipeline.since <= perf_counter(), "what was not taken came after the last group was"
    pipeline.leave([])
    now = perf_counter()
    pipeline.submit(one)
    assert pipeline.take(1) == [one]
    assert pipeline.since >= now


class Script:
    """A way of groups on which each is durable when the test says so. Notes what is done, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.durable: list[asyncio.Future[None]] = []

    async def store(self, pipeline: Pipeline) -> Batch:
        items = pipeline.take(pipeline.pending)
        pipeline.leave([])
        self.events.append("store")
        self.durable.append(asyncio.get_running_loop().create_future())
        await self.durable[-1]
        return Batch(Group([], []), [], [item for item in items if isinstance(item, Step)], len(items), pipeline.since)

    def finish(self, batch: Batch) -> None:
        self.events.append("finish")


async def test_next_group_is_stored_before_the_last_is_finished_and_nothing_comes_between() -> None:
    """From the very callback that brings the outcome of the last: each round of the loop would read from sockets first."""
    script = Script()
    pipeline = Pipeline(script, pending_bytes=1 << 20, failed=print)
    pipeline.start()
    pipeline.submit(Step())
    await until(lambda: bool(script.durable))
    pipeline.submit(Step())
    script.durable[0].set_result(None)
    asyncio.get_running_loop().call_soon(script.events.append, "what comes next to the loop")
    await until(lambda: len(script.events) == 4)
    assert script.events == ["store", "store", "finish", "what comes next to the loop"]
    script.durable[1].set_result(None)
    await pipeline.stop(TIMEOUT)
    assert script.events[4:] == ["finish"]


async def test_what_was_begun_is_limited_and_cancelled_by_the_task_that_awaits_it() -> None:
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    seen: list[str] = []

    async def limited() -> str:
        seen.append("began")
        try:
            async with asyncio.timeout(0):
                await never
        except TimeoutError:
            return "too late"
        return "never"

    async def cancelled() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    async def at_once() -> int:
        return 1

    begun = Begun(limited())
    assert seen == ["began"], "before anybody awaits it"
    assert await begun == "too late"
    assert await Begun(at_once()) == 1

    async def awaits() -> None:
        await Begun(cancelled())

    task = asyncio.create_task(awaits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["began", "cancelled"]


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

    async def read_inbox(self, user: str, after: int, limit: int, max_bytes: int = 1 << 20) -> list[InboxEntry]:
        raise AssertionError("nobody is connected")

    async def read_messages(self, ids: Sequence[int]) -> list[Message]:
        return []

    async def read_tail(self, after_id: int, limit: int, max_bytes: int = 1 << 20) -> list[Message]:
        raise AssertionError("nobody is connected")

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


class Recorder(Retained):
    """Everything that happens on the way of a group, in order. It waits for each message's ack, and as the retained messages it
    is told of each at its place in the order."""

    def __init__(self, store: Store) -> None:
        super().__init__(1 << 20)
        self.store = store
        self.events: list[tuple[str, str]] = []
        self.acked: list[str] = []
        self.refused: dict[str, Exception] = {}
        self.too_early: list[str] = []

    def expect(self, append: Append) -> None:
        self.events.append(("route", append.message.topic))
        super().expect(append)

    def stored(self, publication: Publication) -> None:
        name = publication.message.topic
        if publication.error is not None:
            self.refused[name] = publication.error
            return
        if publication not in self.store.committed:
            self.too_early.append(name)
        self.events.append(("ack", name))
        self.acked.append(name)

    def listens(self, event: str) -> bool:
        """To no event of amqtt's."""
        return False

    def retained(self, message: Message) -> None:
        """Nobody is told."""

    def message_broadcast(self, info: SessionInfo, message: Message, packet_id: int = 0) -> None:
        """Nobody is told."""


class Told(Origin):
    """Who published a message."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def stored(self, publication: Publication, acks: Acks) -> None:
        self._recorder.stored(publication)


class NoPlugins:
    """Nobody is asked about a client or a topic."""

    auth_plugins = topic_plugins = ()


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


class Bench:
    """A started pipeline over a `Store`."""

    def __init__(self, *plugins: GroupPlugin, pending_bytes: int = 1 << 20, hook_timeout: float = 5.0, queue: int = 4) -> None:
        self.store = Store()
        self.recorder = Recorder(self.store)
        self.counters = Counters()
        self.fenced = 0
        trie: Trie[Session | SharedGroup] = Trie()
        time = ServerTime()
        access = AccessControl(NoPlugins())
        self.hooks = GroupHooks(plugins, self.counters, timeout=hook_timeout, after_queue=queue)
        self.commits = Commits(self.store, self.counters, self._fence)
        path = self.path = PublishPath(
            Ids(time=time),
            trie,
            self.recorder,
            self.hooks,
            self.commits,
            Delivery(self.store, trie, access, self.counters, Limits(), time),
            self.recorder,
            self.counters,
        )
        self.failed: list[str] = []
        self.pipeline = Pipeline(path, pending_bytes=pending_bytes, failed=self.failed.append)
        self.pipeline.start()

    def message(self, name: str, payload: bytes = b"") -> Publication:
        return Publication(Outgoing(name, "u/a", "d", 1, payload, True), Told(self.recorder), retain=True)

    def _fence(self) -> None:
        self.fenced += 1

    async def settled(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            await self.pipeline.rest()
        assert self.recorder.too_early == [], "acknowledged and not stored"

    async def stop(self) -> None:
        await self.pipeline.stop(TIMEOUT)
        await self.hooks.close()
        assert self.recorder.too_early == [], "acknowledged and not stored"


class NodesThatFail:
    """Other nodes of which our own code fails to say what they are to be told."""

    covered: Publication | Step | None = None
    late: ClassVar[dict[tuple[str, str], int]] = {}

    async def current(self, group: Sequence[Publication | Step]) -> bool:
        return True

    async def tell(self, publications: Sequence[Publication]) -> bool:
        raise ZeroDivisionError("in our own code")


def plugin(**hooks: Any) -> GroupPlugin:
    """A plugin with these coroutine functions as hooks."""
    made: GroupPlugin = type("Plugin", (GroupPlugin,), {"__init__": lambda self: None, **hooks})()
    return made


async def test_everything_of_a_group_is_durable_before_anything_of_it_is_acknowledged() -> None:
    bench = Bench()
    bench.store.gated = True
    bench.pipeline.submit(bench.message("a"))
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
    bench.pipeline.submit(bench.message("first"))
    await until(lambda: bench.store.busy)
    for number in range(100):
        bench.pipeline.submit(bench.message(str(number)))
    assert bench.pipeline.pending == 100
    bench.store.let(2)
    await bench.settled()
    assert [len(group) for group in bench.store.tried] == [1, 100]
    assert bench.recorder.acked == ["first", *map(str, range(100))]
    await bench.stop()


async def test_a_group_is_matched_only_when_the_one_before_is_durable() -> None:
    bench = Bench()
    bench.store.gated = True
    bench.pipeline.submit(bench.message("a"))
    await until(lambda: bench.store.busy)
    bench.pipeline.submit(bench.message("b"))
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
    bench.pipeline.submit(bench.message("quick"))
    await until(lambda: bench.store.busy)
    bench.pipeline.submit(bench.message("slow"))
    bench.store.let(2)
    await until(lambda: bench.recorder.acked == ["quick"])
    gate.set()
    await bench.settled()
    assert bench.recorder.acked == ["quick", "slow"]
    await bench.stop()


async def test_storage_away_is_asked_again_with_the_very_same_objects(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.store.answers = [StorageUnavailable("away"), StorageUnavailable("away"), OSError("odd")]
    items = [bench.message(str(number)) for number in range(3)]
    for item in items:
        bench.pipeline.submit(item)
    await until(lambda: len(bench.store.tried) == 2)
    assert bench.recorder.acked == []
    assert bench.commits.unavailable_since is not None
    await bench.settled()
    assert all(group == items for group in bench.store.tried)  # compared by identity
    assert len(bench.store.tried) == 4
    assert bench.recorder.acked == ["0", "1", "2"]
    assert [event for event, _ in bench.recorder.events] == ["route"] * 3 + ["ack"] * 3  # numbered once
    assert bench.commits.unavailable_since is None
    assert bench.counters.storage_errors == 3
    assert caplog.text.count("storage is unavailable") == 1
    assert "storage is back" in caplog.text
    await bench.stop()


async def test_a_full_disk_is_told_once_however_much_is_left_of_it(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.store.answers = [DiskFull("3 MiB left"), DiskFull("2 MiB left")]
    bench.pipeline.submit(bench.message("a"))
    await until(lambda: len(bench.store.tried) == 2)
    assert bench.commits.disk_full
    await bench.settled()
    assert not bench.commits.disk_full
    assert caplog.text.count("storage is unavailable") == 1
    await bench.stop()


async def test_data_that_turns_out_to_be_damaged_is_told_as_what_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """In one line, which says what is to be done; it is no fault of the broker's."""
    bench = Bench()
    bench.store.answers = [StorageUnusable("t.db is damaged; restore it from a backup")] * 2
    bench.pipeline.submit(bench.message("a"))
    await bench.settled()
    assert [record.exc_info for record in caplog.records if "t.db is damaged" in record.getMessage()] == [None]
    await bench.stop()


async def test_reasons_that_take_turns_are_each_told_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.store.answers = [StorageUnavailable("a"), StorageUnavailable("b")] * 2
    bench.pipeline.submit(bench.message("a"))
    await bench.settled()
    assert caplog.text.count("storage is unavailable") == 2
    await bench.stop()


async def test_nothing_is_dropped_while_storage_is_away_and_sources_are_told_to_wait() -> None:
    bench = Bench(pending_bytes=10 * OVERHEAD)
    bench.store.gated = True
    bench.pipeline.submit(bench.message("0"))
    await until(lambda: bench.store.busy)
    count = 1
    while not bench.pipeline.full:
        bench.pipeline.submit(bench.message(str(count)))
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
    bench.pipeline.submit(bench.message("a"))
    await until(lambda: bench.store.busy)
    bench.pipeline.submit(bench.message("b", b"x" * 743))
    assert not bench.pipeline.full
    bench.pipeline.submit(bench.message("c"))
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
        bench.pipeline.submit(bench.message(name))
    await bench.settled()
    assert bench.recorder.acked == ["a", "c"]
    assert list(bench.recorder.refused) == ["b"]
    await bench.stop()


async def test_a_message_refused_before_it_was_submitted_keeps_its_place_and_is_never_stored() -> None:
    bench = Bench()
    denied = bench.message("b")
    denied.error = MessageRefused("not allowed")
    for item in (bench.message("a"), denied, bench.message("c")):
        bench.pipeline.submit(item)
    await bench.settled()
    assert bench.recorder.acked == ["a", "c"]
    assert denied not in bench.store.tried[0]
    assert ("route", "b") not in bench.recorder.events
    await bench.stop()


@pytest.mark.parametrize(
    ("kind", "plain"),
    [("raise", False), ("hang", False), ("cancel", False), ("timeout", False), ("raise", True), ("cancel", True)],
)
async def test_a_hook_that_fails_withholds_the_ack_of_the_culprit_alone(kind: str, plain: bool) -> None:
    def function(self: object, group: Group) -> None:
        if any(append.message.topic == "bad" for append in group.appends):
            raise {"cancel": asyncio.CancelledError, "timeout": TimeoutError}.get(kind, ValueError)

    async def before_ack(self: object, group: Group) -> None:
        if kind == "hang" and any(append.message.topic == "bad" for append in group.appends):
            await asyncio.Event().wait()
        function(self, group)

    bench = Bench(plugin(before_ack=function if plain else before_ack), hook_timeout=0.05)
    for name in ("a", "bad", "c"):
        bench.pipeline.submit(bench.message(name))
    await bench.settled()
    assert bench.recorder.acked == ["a", "c"]
    assert isinstance(bench.recorder.refused["bad"], HookFailed)
    assert [op.message.topic for op in bench.store.committed if isinstance(op, Append)] == ["a", "c"]
    assert bench.counters.hook_errors == 2
    bench.pipeline.submit(bench.message("after"))
    await bench.settled()
    assert bench.recorder.acked == ["a", "c", "after"]
    await bench.stop()


async def test_a_hook_for_which_storage_is_away_is_called_again_until_it_is_back() -> None:
    """The whole group waits, nobody is refused, and what it added before counts for nothing."""
    calls = 0

    async def before_ack(self: object, group: Group) -> None:
        nonlocal calls
        group.operations.append(Release(DeviceKey("u/a", "d"), 1))
        calls += 1
        if calls < 3:
            assert bench.recorder.acked == []
            raise StorageUnavailable("the test says so")

    bench = Bench(plugin(before_ack=before_ack))
    for name in ("a", "b"):
        bench.pipeline.submit(bench.message(name))
    await bench.settled()
    await bench.stop()
    assert (bench.recorder.acked, bench.recorder.refused, bench.counters.hook_errors) == (["a", "b"], {}, 0)
    assert [type(op) for op in bench.store.committed] == [Publication, Publication, Release]
    assert (calls, bench.counters.storage_errors) == (3, 2)


async def test_a_hook_of_a_node_that_may_not_write_any_more_stops_it() -> None:
    def before_ack(self: object, group: Group) -> None:
        raise FencedOut("another node")

    bench = Bench(plugin(before_ack=before_ack))
    bench.pipeline.submit(bench.message("a"))
    await until(lambda: bench.fenced)
    assert (bench.recorder.acked, bench.recorder.refused, bench.store.tried) == ([], {}, [])
    await bench.stop()


async def test_a_hook_sees_the_group_before_the_commit_and_may_add_to_it() -> None:
    extra = Release(("u/a", "d"), 9)  # type: ignore[arg-type]

    async def before_ack(self: object, group: Group) -> None:
        group.operations.append(extra)

    bench = Bench(plugin(before_ack=before_ack))
    bench.pipeline.submit(bench.message("a"))
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
        bench.pipeline.submit(bench.message(name))
    await bench.settled()
    await bench.stop()
    assert bench.recorder.acked == ["a", "b"]
    assert list(bench.recorder.refused) == ["bad"]
    assert [op.device.client_id for op in bench.store.committed if isinstance(op, Release)] == ["a", "b"]


async def test_each_hook_is_called_once_and_what_those_before_it_added_survives_its_failure() -> None:
    """One that answers at once, one that is waited for, and one that fails behind both."""

    def adds(self: object, group: Group) -> None:
        group.operations.append(Release(DeviceKey("u/a", "at once"), 1))

    async def waits(self: object, group: Group) -> None:
        group.operations.append(Release(DeviceKey("u/a", "later"), 1))

    def fails(self: object, group: Group) -> None:
        if any(append.message.topic == "bad" for append in group.appends):
            raise ValueError

    bench = Bench(plugin(before_ack=adds), plugin(before_ack=waits), plugin(before_ack=fails))
    for name in ("a", "bad", "b"):
        bench.pipeline.submit(bench.message(name))
    await bench.settled()
    await bench.stop()
    assert bench.recorder.acked == ["a", "b"]
    assert [op.device.client_id for op in bench.store.committed if isinstance(op, Release)] == ["at once", "later"]


class Behind(Mark):
    """Can be applied once a message is decided."""

    def ready(self) -> bool:
        return self.recorder.events[-1][0] != "route"


async def test_a_step_that_hangs_on_a_message_before_it_waits_for_the_next_group() -> None:
    """Nothing overtakes it, and what sources may submit counts what was put back."""
    bench = Bench(pending_bytes=5 * OVERHEAD)
    store, recorder, source = bench.store, bench.recorder, Source()
    store.gated = True
    for item in (bench.message("a"), Behind(recorder, "step"), bench.message("b"), bench.message("c"), bench.message("d")):
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


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "waits"])
async def test_what_a_hook_refuses_does_not_come_to_storage(waits: bool) -> None:
    def function(self: object, group: Group) -> None:
        for append in group.appends:
            if append.message.topic == "bad":
                append.error = MessageRefused("not allowed")

    async def before_ack(self: object, group: Group) -> None:
        function(self, group)

    bench = Bench(plugin(before_ack=before_ack if waits else function))
    for name in ("a", "bad", "b"):
        bench.pipeline.submit(bench.message(name))
    await bench.settled()
    await bench.stop()
    assert bench.recorder.acked == ["a", "b"]
    assert [op.message.topic for group in bench.store.tried for op in group if isinstance(op, Append)] == ["a", "b"]


async def test_a_hook_may_decide_that_a_message_is_not_stored() -> None:
    async def before_ack(self: object, group: Group) -> None:
        for append in group.appends:
            append.store = append.retain = append.message.topic != "live"

    bench = Bench(plugin(before_ack=before_ack))
    live = bench.message("live")
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
        bench.pipeline.submit(bench.message(str(number)))
        await bench.settled()
    assert bench.recorder.acked == list(map(str, range(6)))
    assert seen == []
    gate.set()
    await until(lambda: len(seen) == 6 - bench.counters.hook_skipped)
    assert bench.counters.hook_skipped >= 3  # the queue is bounded: one under way, two waiting
    assert seen == sorted(seen)
    await until(lambda: bench.counters.hook_errors == 1)
    await bench.stop()


async def test_a_hook_after_the_ack_may_be_done_at_once() -> None:
    """A plain function is called with each group, in order, behind one that has to be waited for; its failure is counted."""
    gate = asyncio.Event()
    seen: list[str] = []

    def after_ack(self: object, group: Group) -> Awaitable[None] | None:
        seen.append(group.appends[0].message.topic)
        if seen[-1] == "1":
            raise ValueError("on purpose")
        return waited() if seen[-1] == "2" else None

    async def waited() -> None:
        await gate.wait()
        seen.append("2 done")

    bench = Bench(plugin(after_ack=after_ack))
    for number in range(5):
        bench.pipeline.submit(bench.message(str(number)))
        await bench.settled()
    assert bench.recorder.acked == list(map(str, range(5)))
    assert seen == ["0", "1", "2"]
    assert bench.counters.hook_errors == 1
    gate.set()
    await until(lambda: seen == ["0", "1", "2", "2 done", "3", "4"])
    await bench.stop()


async def test_fenced_out_acknowledges_nothing_and_says_so() -> None:
    bench = Bench()
    bench.store.answers = [FencedOut("another node"), FencedOut("another node")]
    bench.pipeline.submit(bench.message("a"))
    await until(lambda: bench.fenced > 0)
    bench.pipeline.submit(bench.message("b"))
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
    bench.pipeline.submit(bench.message("a"))
    await bench.settled()
    assert bench.recorder.acked == ["a"]
    assert "a step of a committed group failed" in caplog.text
    await bench.stop()


@pytest.mark.parametrize("where", ["expect", "apply", "decide", "stored", "listens"])
async def test_a_bug_of_ours_does_not_end_the_pipeline(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a message is numbered, a step applied, retained messages decided, a publisher acknowledged, a group delivered."""
    bench = Bench()

    class Broken(Step):
        def apply(self) -> Sequence[Operation]:
            raise ValueError("on purpose")

    def broken(*arguments: object) -> None:
        raise ValueError("on purpose")

    if where == "apply":
        bench.pipeline.submit(Broken())
    else:
        with monkeypatch.context() as patch:
            patch.setattr(bench.recorder, where, broken)
            bench.pipeline.submit(bench.message("lost"))
            await bench.settled()
    bench.pipeline.submit(bench.message("a"))
    await bench.settled()
    assert bench.recorder.acked == (["lost", "a"] if where in ("decide", "listens") else ["a"])  # by then it is durable
    assert list(bench.recorder.refused) == (["lost"] if where == "expect" else [])
    await bench.stop()


async def test_stop_commits_what_was_gathered() -> None:
    bench = Bench()
    for number in range(5):
        bench.pipeline.submit(bench.message(str(number)))
    await bench.stop()
    assert bench.recorder.acked == list(map(str, range(5)))


async def test_stop_gives_up_after_its_grace() -> None:
    bench = Bench()
    bench.store.gated = True
    bench.pipeline.submit(bench.message("never"))
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
@settings(max_examples=examples(60), deadline=None)
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
                bench.pipeline.submit(bench.message(name))
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


async def test_an_internal_error_between_commits_is_told_and_ends_the_node(caplog: pytest.LogCaptureFixture) -> None:
    """! Nothing would be acknowledged any more, and nobody would know why."""
    bench = Bench()
    bench.path.others = NodesThatFail()
    bench.pipeline.submit(bench.message("a"))
    await until(lambda: bench.failed)
    assert bench.failed == ["internal error, see the log"]
    assert "in our own code" in caplog.text
    assert bench.recorder.acked == []
    await bench.stop()


async def test_storage_that_stays_away_is_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 6: however often it fails, the group is kept and acknowledged in the end."""
    monkeypatch.setattr("broker.commits._BACKOFF", (0.0,))
    bench = Bench()
    bench.store.answers = [StorageUnavailable("away")] * 50
    bench.pipeline.submit(bench.message("a"))
    await bench.settled()
    assert bench.recorder.acked == ["a"]
    assert bench.counters.storage_errors == 50
    await bench.stop()
