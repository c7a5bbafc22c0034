"""What search by Meilisearch costs: ``python -m bench.search_meilisearch [--binary PATH | --url URL]``.

Runs ``meilisearch``, where the command is found, on a new folder, or uses a server that runs already, with the key in
TIDELINE_MEILISEARCH_KEY. Feeds it made-up chat messages from a storage in memory, through the indexer as the broker has it, and
prints how many become searchable in a second: of a backlog, and of a stream. Then how soon one message is found by a search:
alone, and beside the stream. The index is removed again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from bench.peers.base import free_port
from bench.search import Corpus
from bench.table import columns
from plugins.follower import passed
from plugins.search.engine import Document, Query
from plugins.search.indexer import Indexer
from plugins.search.meili import MeiliEngine
from plugins.search.plugin import KEY_VARIABLE, SearchPlugin, make_indexer
from storage.memory import MemoryStorage
from storage.records import Append, Message

RATES = (50, 500)
"""Messages a second beside which one message is looked for."""
_MEMORY = "1Gb"
"""As docs/search.md advises: each task fills a buffer of a part of it, which by default is of the machine's memory."""
_GROUP = 500
_LOOK = 0.005
_LONG = 600.0


class Server(NamedTuple):
    """Where it is, and what it is."""

    url: str
    key: str
    about: str


def begin(binary: str, folder: Path, url: str, key: str) -> subprocess.Popen[bytes]:
    """A server's process on what is in ``folder``, once it answers."""
    command = [binary, "--http-addr", url.removeprefix("http://"), "--db-path", str(folder / "data"), "--no-analytics"]
    command += ["--max-indexing-memory", _MEMORY]
    with (folder / "log").open("ab") as log:
        environment = {**os.environ, "MEILI_MASTER_KEY": key, "MEILI_ENV": "production"}
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while not _healthy(url):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise SystemExit(f"{binary} does not answer:\n{(folder / 'log').read_text()[-2000:]}")
        time.sleep(0.1)
    return process


@contextmanager
def started(binary: str) -> Iterator[Server]:
    """A server of its own, on a folder that is removed."""
    url, key = f"http://127.0.0.1:{free_port()}", secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder:
        process = begin(binary, Path(folder), url, key)
        try:
            version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()
            yield Server(url, key, version)
        finally:
            process.terminate()
            process.wait(30)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class Stream:
    """Made-up messages into a storage, and word to the indexer."""

    def __init__(self, storage: MemoryStorage, indexer: Indexer) -> None:
        self._storage = storage
        self._indexer = indexer
        self._documents: Iterator[Document] = Corpus(1).documents(1 << 40)
        self.last = 0

    async def publish(self, count: int, text: str = "") -> None:
        """Commit so many messages at once, with ``text`` for theirs if it is given."""
        group = [
            Append(Message(d.id, d.topic, d.sender, d.device, d.time, 1, (text or d.text).encode()))
            for d in islice(self._documents, count)
        ]
        await self._storage.commit(group)
        self.last = group[-1].message.id
        self._indexer.notify(count, self.last)

    async def flow(self, rate: int) -> None:
        """Publish at a rate until cancelled."""
        began, sent = time.perf_counter(), 0
        while True:
            due = int((time.perf_counter() - began) * rate) - sent
            if due:
                await self.publish(due)
                sent += due
            await asyncio.sleep(0.01)


async def _searchable(indexer: Indexer, id: int) -> None:
    """Wait as who does not hurry the indexer."""
    async with asyncio.timeout(_LONG):
        while not passed(indexer.positions, id):
            await asyncio.sleep(_LOOK)


async def _found(stream: Stream, indexer: Indexer, engine: MeiliEngine, number: int) -> float:
    """Seconds from the commit of one message to when it is said to be searchable; and a search that must find it."""
    word = f"needle{number:06d}"
    began = time.perf_counter()
    await stream.publish(1, word)
    await _searchable(indexer, stream.last)
    taken = time.perf_counter() - began
    found = await engine.search(Query(q=f'"{word}"'))
    if found.total != 1:
        raise SystemExit(f"{word} is said to be searchable, and is found {found.total} times")
    return taken


async def run(server: Server, messages: int, times: int) -> str:
    """The figures as text."""
    config = SearchPlugin.Config(engine="meilisearch", url=server.url, key=server.key)
    engine = MeiliEngine(server.url, server.key, name=f"tideline_bench_{secrets.token_hex(4)}", timeout=60)
    storage = MemoryStorage()
    await storage.open()
    indexer = make_indexer(storage, engine, config)
    stream = Stream(storage, indexer)
    parts = [f"Search by Meilisearch ({server.about})"]
    try:
        for at in range(0, messages, _GROUP):
            await stream.publish(min(_GROUP, messages - at))
        began, used = time.perf_counter(), time.process_time()
        indexer.start()
        await _searchable(indexer, stream.last)
        taken, used = time.perf_counter() - began, time.process_time() - used
        speed = f"{messages / taken:,.0f} messages searchable a second, {used / messages * 1e6:.0f} us of our CPU each"
        parts.append(f"a backlog of {messages:,}: {speed}")
        number, rows = 0, [["one message, found after", "p50 s", "max s", "our CPU, of a core"]]
        for rate in (0, *RATES):
            flowing = asyncio.create_task(stream.flow(rate)) if rate else None
            waits, began, used = [], time.perf_counter(), time.process_time()
            for _ in range(times):
                waits.append(await _found(stream, indexer, engine, number := number + 1))
                await asyncio.sleep(0.1 + 0.03 * (number % 7))
            name = f"beside {rate:,} messages/s" if rate else "alone"
            share = (time.process_time() - used) / (time.perf_counter() - began)
            rows.append([name, f"{statistics.median(waits):.2f}", f"{max(waits):.2f}", f"{share:.0%}"])
            if flowing is not None:
                flowing.cancel()
                await asyncio.gather(flowing, return_exceptions=True)
                await _searchable(indexer, stream.last)
        parts.append(columns(rows))
        parts.append(f"indexing failed and was tried again {indexer.errors} times" if indexer.errors else "nothing failed")
    finally:
        await indexer.stop()
        await engine.remove()
        await engine.close()
        await storage.close()
    return "\n\n".join(parts)


def report(messages: int, times: int = 20, binary: str = "meilisearch") -> str:
    """The same on a server of its own, or why there is none."""
    found = shutil.which(binary)
    if found is None:
        return f"Search by Meilisearch: not measured, as there is no command {binary}"
    with started(found) as server:
        return asyncio.run(run(server, messages, times))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=100_000, help="of the backlog")
    parser.add_argument("--times", type=int, default=20, help="that one message is looked for, in each case")
    parser.add_argument("--binary", default="meilisearch")
    parser.add_argument("--url", help="of a server that runs; its key is in " + KEY_VARIABLE)
    given = parser.parse_args()
    if given.url:
        server = Server(given.url, os.environ.get(KEY_VARIABLE, ""), given.url)
        print(asyncio.run(run(server, given.messages, given.times)))
    else:
        print(report(given.messages, given.times, given.binary))


if __name__ == "__main__":
    main()
