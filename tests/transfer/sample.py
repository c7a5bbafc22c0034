"""A database with something of everything, and what is in one, as records to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from broker.cli.export import write_export
from broker.cli.import_ import read_export
from storage.factory import open_url
from storage.interface import Storage
from storage.records import (
    Append,
    CloseSession,
    DeviceKey,
    Inflight,
    InflightState,
    JobState,
    Join,
    MarkRead,
    Progress,
    PutRow,
    SaveJob,
    SaveSetting,
    SaveToken,
    Token,
)
from storage.transfer import ExportReader, Record
from tests.storage.samples import Maker, numbered, opened, subscribe

ANN, BOB, GROUP = DeviceKey("u/ann", "phone"), DeviceKey("c/bob", "bob"), DeviceKey("s/work/jobs/#", "work")


async def fill(storage: Storage) -> None:
    """Some of everything: also what retention removed, what is retained and was not, and a session in the midst of QoS 2."""
    make = Maker()
    make.number = 0
    text = "日本語 ✓"
    await storage.commit([opened(ANN, 3, expiry=99, will=b"\0will"), opened(BOB), opened(GROUP)])
    await storage.commit([subscribe(ANN, "chat/#", f"{text}/+", epoch=3, options=2), subscribe(BOB, "chat/a")])
    both = ["u/ann", "c/bob"]
    for _ in range(3):
        await storage.commit([*make.appends(4, "chat/a", both), *make.appends(3, "old/news", ["u/ann"])])
    await storage.commit(
        [
            make.append(
                f"{text}/x", ["u/ann", "s/work/jobs/#"], bytes(range(256)), properties=b"\x01\x01", qos=2, expires=1 << 42
            ),
            make.append("state/a", [], b"on", retain=True),
            make.append("state/b", [], b"unstored", retain=True, store=False),
            make.append("once/a", [], b"", received=(ANN, 700), idempotency_key="k\x1f1", idempotency_until=1 << 42),
        ]
    )
    kept = await storage.retained_range("state/a", "", 1)
    await storage.commit([subscribe(BOB, "state/#", retained=kept)])
    inflight = [Inflight(1, 5, InflightState.PUBLISHED_1), Inflight(9, 7, InflightState.RELEASED)]
    await storage.commit(
        [
            Progress(ANN, 3, 4, 8, inflight),
            Progress(BOB, 1, 2, 2, []),
            CloseSession(BOB, 1, False, 3600, 1 << 42, b"later", 1 << 41),
            Join([("u/ann", "chat/a"), ("c/bob", "chat/a")]),
            MarkRead("u/ann", "chat/a", 5),
            MarkRead("u/eve", "old/news", 2),
            SaveSetting("user", text, b"\0\xff"),
            PutRow(text, "u/ann", text, b"\0\xff"),
            PutRow("member", "", "a/é", b""),
            SaveToken(Token("t1", "ab" * 32, "u/ann", text, 5, 0)),
            SaveJob(JobState("retention", "1h", 9, 1, 2, "done", '{"removed": 3}')),
        ]
    )
    assert await storage.prune_conversation("old/news", 10) == 9
    assert await storage.prune_conversation("chat/a", 3) == 2
    assert await storage.prune_inbox("c/bob", 2) == 1


async def filled(url: str) -> None:
    """A database with all that at a URL."""
    storage = open_url(url)
    await storage.open()
    await fill(storage)
    await storage.close()


async def exported(url: str, file: Path) -> set[Record]:
    """Export a database; what the file has: without what is another one each time, and what SQLite does not keep."""
    await write_export(url, file)
    return contents(file)


def contents(file: Path) -> set[Record]:
    """The records of a file, without a device's epoch, which is above all earlier ones after an import; hashable."""
    with ExportReader(file) as reader:
        return {_alike(record) for page in reader.records() for record in page}


def _alike(record: Record) -> Record:
    kind, *fields = record
    if kind == "device":
        del fields[2]
        if fields[0].startswith("s/"):
            fields[6:8] = [0, []]  # a group gives out again what is not done
    elif kind == "entry":
        del fields[4:]
    return (kind, *map(_hashable, fields))


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


async def imported(file: Path, url: str) -> None:
    """Import a file."""
    await read_export(file, url)


WHOLE = ["chat/a 3-12", "old/news 10-9", "once/a 1-1", "state/a 1-1", "日本語 ✓/x 1-1"]
"""The conversations of `fill`, as `conversations` tells them."""


async def conversations(path: Path) -> list[str]:
    """Those of a database: topic, first kept and last sequence."""
    storage = open_url(f"sqlite:///{path}", read_only=True)
    await storage.open()
    try:
        return [f"{topic} {first}-{last}" async for topic, first, last in storage.conversations()]
    finally:
        await storage.close()


def next_id() -> int:
    """A message id above all of `fill`."""
    return numbered(1 << 20, 0)


def after(topic: str, to: list[str]) -> Append:
    """A message that comes after all that."""
    make = Maker()
    append = make.append(topic, to)
    append.message.id = next_id()
    return append
