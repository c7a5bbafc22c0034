"""What a message takes of the disk: `python -m bench.storage_bytes [--messages 200000] [--bytes 68] [--parts]`.

Made-up chat messages, each for one inbox, as a broker leaves them in SQLite's file, and the index in its own, after both were
closed; with ``--engine tantivy`` that one. Tables and their indexes are counted by whole pages, free ones among the rest. With
``--parts`` each table and index is told by itself: its rows, and what SQLite adds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.drive import Cell
from bench.search import Corpus
from bench.shapes import BYTES
from bench.table import OURS, columns
from broker.ids import EPOCH
from plugins.search.engine import Document
from plugins.search.own_files import own_engine
from storage.factory import open_url
from storage.records import Append, Message

PAYLOAD = 68
_GROUP = 2000
_KINDS = {"store": ("store",), "inbox": ("sync",)}
"""Beginnings of the names of their tables and indexes; what has none of them is "the rest"."""


def _documents(messages: int, length: int) -> Iterator[Document]:
    """Texts of so many bytes; one less where a character would be cut."""
    corpus = Corpus(3)
    for document in corpus.documents(messages):
        text = document.text
        while len(text.encode()) < length:
            text += " " + corpus.text()
        id = document.time - EPOCH << 22
        yield document._replace(id=id, text=text.encode()[:length].decode(errors="ignore"))


def _append(document: Document) -> Append:
    payload = document.text.encode()
    message = Message(document.id, document.topic, document.sender, document.device, document.time, 1, payload)
    return Append(message, recipients=(f"u/{document.id % 4999}",))


class Part(NamedTuple):
    """A table or index of a file, in bytes of a message: its rows, room that is left in its pages, and all of its pages."""

    file: str
    name: str
    rows: float
    room: float
    all: float


async def _fill(folder: Path, messages: int, length: int, index: str) -> None:
    storage = open_url(f"sqlite:///{folder}/tideline.db")
    engine = own_engine(index, f"{folder}/search.db", storage)
    await storage.open()
    await engine.open()
    try:
        documents = _documents(messages, length)
        while some := list(itertools.islice(documents, _GROUP)):
            await storage.commit([_append(document) for document in some])
            await engine.index(some, {0: some[-1].id})
    finally:
        await engine.close()
        await storage.close()


def _stored(path: Path) -> dict[str, float]:
    """Bytes by kind."""
    found = dict.fromkeys((*_KINDS, "the rest"), 0.0)
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        for name, used in database.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name"):
            kind = next((kind for kind, begins in _KINDS.items() if name.startswith(begins)), "the rest")
            found[kind] += used
    finally:
        database.close()
    found["the rest"] += path.stat().st_size - sum(found.values())
    return found


def _parts(path: Path, messages: int) -> list[Part]:
    """The largest first; at the end what no message's part is worth naming, and pages that are free."""
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        sql = "SELECT name, sum(payload), sum(unused), sum(pgsize) FROM dbstat GROUP BY name ORDER BY 4 DESC"
        parts = [Part(path.name, name, *(used / messages for used in each)) for name, *each in database.execute(sql)]
    finally:
        database.close()
    small = [part for part in parts if part.all < 1]
    named = [part for part in parts if part.all >= 1]
    others = Part(path.name, "others", *(sum(column) for column in list(zip(*small, strict=True))[2:])) if small else None
    free = path.stat().st_size / messages - sum(part.all for part in parts)
    return [*named, *([others] if others else []), Part(path.name, "free pages", 0.0, free, free)]


def _endings(folder: Path, messages: int) -> list[Part]:
    """Of tantivy's files by what their names end in."""
    found: dict[str, float] = {}
    for file in (folder / "search.tantivy").rglob("*.*"):
        found[file.suffix] = found.get(file.suffix, 0.0) + file.stat().st_size / messages
    return [Part("search.tantivy", name, used, 0.0, used) for name, used in sorted(found.items(), key=lambda one: -one[1])]


def measure(messages: int, length: int = PAYLOAD, parts: list[Part] | None = None, index: str = "embedded") -> dict[str, float]:
    """Bytes of a message in each, and in all. ``parts`` is given every table and index."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(_fill(folder, messages, length, index))
        found = _stored(folder / "tideline.db")
        files = [file for path in folder.glob("search.*") for file in (path, *path.rglob("*"))]
        found["index"] = float(sum(file.stat().st_size for file in files if file.is_file()))
        if parts is not None:
            parts += _parts(folder / "tideline.db", messages)
            parts += _parts(folder / "search.db", messages) if index == "embedded" else _endings(folder, messages)
    each = {kind: used / messages for kind, used in found.items()}
    return {**each, "all": sum(each.values())}


def cells(found: dict[str, float], length: int = PAYLOAD) -> list[Cell]:
    """Beside the payload itself."""
    return [Cell(BYTES.name, OURS, dict(found)), Cell(BYTES.name, "payload", dict.fromkeys(found, float(length)))]


def table(found: dict[str, float], messages: int, length: int = PAYLOAD, index: str = "embedded") -> str:
    """A column for each."""
    rows = [["bytes on disk", *found], [f"a message of {length}", *(f"{used:.0f}" for used in found.values())]]
    title = f"What a message takes of the disk: {messages:,} chat messages, an inbox entry each, SQLite, {index} index"
    return f"{title}\n\n{columns(rows)}"


def parts_table(parts: list[Part]) -> str:
    """A row for each."""
    rows = [["file", "table or index", "its rows", "room left in its pages", "in all"]]
    rows += [[part.file, part.name, *(f"{used:.1f}" for used in part[2:])] for part in parts]
    return columns(rows)


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--bytes", type=int, default=PAYLOAD, help="of payload (default %(default)s)")
    parser.add_argument("--parts", action="store_true", help="each table and index by itself")
    parser.add_argument("--engine", choices=["embedded", "tantivy"], default="embedded", help="of the index")
    given = parser.parse_args()
    parts: list[Part] | None = [] if given.parts else None
    found = measure(given.messages, given.bytes, parts, given.engine)
    print(table(found, given.messages, given.bytes, given.engine))
    if parts:
        print(f"\n{parts_table(parts)}")


if __name__ == "__main__":
    main()
