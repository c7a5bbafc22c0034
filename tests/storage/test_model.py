"""Every backend against the one in memory: any groups of operations, with answers lost and restarts between them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from storage.errors import StorageUnavailable
from storage.interface import Storage
from storage.records import (
    CloseSession,
    DeviceKey,
    DropRow,
    Inflight,
    InflightState,
    OpenSession,
    Operation,
    Progress,
    PutRow,
    Release,
    Subscribe,
    Unsubscribe,
)
from tests.storage.backends import Backend, backends
from tests.storage.samples import START, Maker, everything, opened, results, subscribe
from tests.support.seeds import examples

TOPICS, USERS, FILTERS = ["a", "b/c", "r"], ["u/ann", "u/bob", "c/x"], ["a", "#", "b/+"]
DEVICES = [DeviceKey("u/ann", "phone"), DeviceKey("u/ann", "pad"), DeviceKey("u/bob", "phone")]

_device, _epoch, _few = st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)
_some = st.sets(st.integers(0, 2), max_size=3).map(sorted)
operations = st.one_of(
    st.tuples(
        st.just("append"),
        st.integers(0, 2),
        _some,
        st.sampled_from(["", "recall", "retain", "clear", "received", "once", "again"]),
    ),
    st.tuples(st.just("append"), st.integers(0, 2), _some, st.just("")),
    st.tuples(st.just("open"), _device, _epoch, st.sampled_from(["latest", "earliest", "last:2", "clean", "nonsense"])),
    st.tuples(st.just("close"), _device, _epoch, st.booleans()),
    st.tuples(st.just("subscribe"), _device, _epoch, _some),
    st.tuples(st.just("unsubscribe"), _device, _epoch, _some),
    st.tuples(st.just("progress"), _device, _epoch, _few),
    st.tuples(st.just("release"), _device, _few, st.just(0)),
    st.tuples(st.just("put"), _device, _few, st.sampled_from(["", "", "new", "seen"])),
    st.tuples(st.just("drop"), _device, _few, st.sampled_from(["", "seen"])),
)
_fault = st.sampled_from(["", "", "lose answer", "away", "reopen"])
scripts = st.lists(st.tuples(st.lists(operations, min_size=1, max_size=8), _fault), max_size=8)


class Author:
    """Makes the operations of a script. Two that are given the same script make the same."""

    def __init__(self) -> None:
        self.make = Maker()
        self._rows: dict[tuple[str, str], PutRow | DropRow] = {}
        """What was done last to each row."""

    def group(self, script: Sequence[tuple[str, int, object, object]]) -> list[Operation]:
        return [getattr(self, kind)(*arguments) for kind, *arguments in script]

    def append(self, topic: int, recipients: list[int], what: str) -> Operation:
        number = self.make.id + 1
        users = [USERS[n] for n in recipients]
        fields: dict[str, object] = {}
        payload = None
        if what in ("retain", "clear"):
            fields["retain"] = True
            payload = b"" if what == "clear" else None
        elif what == "recall":  # the last ones, of whatever topic, some for the second time
            payload, fields["recalls"] = b"", [number - 1, number - 2, number - 4]
        elif what == "received":
            fields.update(received=(DEVICES[number % 3], number % 4 + 1), qos=2)
        elif what:
            fields.update(idempotency_key="key", idempotency_until=START + 40)
            payload = b"the same" if what == "once" else b"other %d" % (number % 2)
        return self.make.append(TOPICS[topic], users, payload, **fields)

    def open(self, device: int, epoch: int, how: str) -> Operation:
        start = "latest" if how == "clean" else how
        return opened(
            DEVICES[device], epoch, clean=how == "clean", start=start, at=START + self.make.id, will=b"w" if epoch else None
        )

    def close(self, device: int, epoch: int, delete: bool) -> Operation:
        return CloseSession(DEVICES[device], epoch, delete, 60, START + 60)

    def subscribe(self, device: int, epoch: int, filters: list[int]) -> Operation:
        return subscribe(DEVICES[device], *(FILTERS[n] for n in filters), epoch=epoch, options=len(filters))

    def unsubscribe(self, device: int, epoch: int, filters: list[int]) -> Operation:
        return Unsubscribe(DEVICES[device], epoch, [FILTERS[n] for n in filters])

    def progress(self, device: int, epoch: int, offset: int) -> Operation:
        return Progress(DEVICES[device], epoch, offset, offset + 2, [Inflight(1, offset + 1, InflightState.PUBLISHED_1)])

    def release(self, device: int, packet_id: int, _: int) -> Operation:
        return Release(DEVICES[device], packet_id)

    def put(self, part: int, key: int, expected: str) -> Operation:
        row, revision = self._row(part, key, expected)
        op = self._rows[row] = PutRow("t", *row, b"value %d" % self.make.id, revision)
        return op

    def drop(self, part: int, key: int, expected: str) -> Operation:
        row, revision = self._row(part, key, expected)
        op = self._rows[row] = DropRow("t", *row, revision)
        return op

    def _row(self, part: int, key: int, expected: str) -> tuple[tuple[str, str], int | None]:
        """A row, and the revision that it is expected to have: as what was done last to it was told."""
        row = TOPICS[part], USERS[key % 3]
        seen = self._rows[row].revision if row in self._rows else 0
        return row, {"new": 0, "seen": seen}.get(expected)


async def play(backend: Backend, script: list[tuple[list[tuple[str, int, object, object]], str]]) -> None:
    model, storage = backend.model(), await backend.open()
    await model.open()
    expected, real = Author(), Author()
    try:
        for group_script, fault in script:
            wanted, group = expected.group(group_script), real.group(group_script)
            if fault == "reopen" and backend.durable:
                storage = await backend.reopen(storage)
                await model.close()
                await model.open()
            await model.commit(wanted)
            if fault == "away" and backend.faults:
                async with backend.away(storage):
                    with suppress(StorageUnavailable):  # a group may have nothing to write
                        await storage.commit(group)
            elif fault == "lose answer" and backend.faults and _is_same_again(group):
                backend.lose_answer(storage)
            await _commit(storage, group)
            if backend.faults:
                backend.lose_nothing(storage)
            assert _plain(results(group)) == _plain(results(wanted))
        assert await everything(storage, TOPICS, USERS) == await everything(model, TOPICS, USERS)
    finally:
        await storage.close()
        await backend.destroy()


def _is_same_again(group: Sequence[Operation]) -> bool:
    """Whether a group that is there already does and tells the same once more.

    A session that is opened again tells where its device stands by now, so not one with its progress. What comes before an
    opening finds no session the first time, and that one the second time; one that was deleted behind it is created again.
    """
    seen: set[DeviceKey] = set()
    begun: set[DeviceKey] = set()
    for op in group:
        if isinstance(op, Progress) or (isinstance(op, OpenSession) and op.device in seen):
            return False
        if isinstance(op, CloseSession) and op.delete and op.device in begun:
            return False
        if isinstance(op, OpenSession):
            begun.add(op.device)
        if isinstance(op, CloseSession | Release | Subscribe | Unsubscribe):
            seen.add(op.device)
    return True


async def _commit(storage: Storage, group: list[Operation]) -> None:
    """As the pipeline does it."""
    for _ in range(5):
        with suppress(StorageUnavailable):
            await storage.commit(group)
            return
    await storage.commit(group)


def _plain(found: list[object]) -> str:
    """Errors by their kind: each backend words them for itself."""
    return repr([[type(part).__name__ if isinstance(part, Exception) else part for part in one] for one in found])  # type: ignore[attr-defined]


@pytest.mark.inside
@pytest.mark.parametrize("name", sorted(backends()))
def test_a_backend_does_what_the_one_in_memory_does(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    kind = backends()[name]

    @example([([("open", 0, 0, "latest")] * 2, "")])  # two of one epoch and time: the second counts as the first one again
    @given(scripts)
    @settings(
        max_examples=examples(kind.examples),
        deadline=None,
        phases=set(Phase) if kind.examples > 10 else set(Phase) - {Phase.shrink},
    )
    def run(script: list[tuple[list[tuple[str, int, object, object]], str]]) -> None:
        asyncio.run(play(kind(tmp_path_factory.mktemp("model")), script))

    run()
