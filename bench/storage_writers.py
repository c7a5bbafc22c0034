"""Several writers of the MongoDB backend, a process each, on one inbox and on separate ones: no broker, no clients.

Each writer commits one group after the other; its topic is its own. `python -m bench.storage_writers URL SECONDS USER…`
forks them all, so that imports are made once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier

from bench.cluster.writing import SIZE, WRITERS, Writing
from bench.peers.mongo import Mongo
from bench.storage import NOW, PAYLOAD
from storage.errors import StorageUnavailable
from storage.mongo import MongoStorage
from storage.records import Append, Message

_WARM_UP = 1.0
"""Seconds in which they meet, and that do not count."""
_SETTLE = 30.0
_PATIENCE = 90.0
"""Seconds to start, and to settle, for all of them."""


def measure(mongo: Mongo, seconds: float, said: Callable[[str], None]) -> list[Writing]:
    """Every number of writers, on one inbox and on separate ones."""
    found = []
    for writers, one_inbox in itertools.product(WRITERS, (True, False)):
        writing = _write(mongo, writers, seconds, one_inbox=one_inbox)
        found.append(writing)
        rate = writing.groups / writing.seconds if writing.seconds else 0
        where = "one inbox" if one_inbox else "an inbox each"
        said(f"  {writers} writer(s), {where}: {rate:,.0f} groups/s, {writing.fewest} to {writing.most} each {writing.trouble}")
    return found


def _write(mongo: Mongo, writers: int, seconds: float, *, one_inbox: bool) -> Writing:
    url = mongo.url(f"tideline_bench_{uuid.uuid4().hex}")
    writing = Writing(writers, one_inbox)
    users = ["u/reader" if one_inbox else f"u/reader-{number}" for number in range(writers)]
    command = [sys.executable, "-m", "bench.storage_writers", url, str(seconds), *users]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        fared = [json.loads(line) for line in process.communicate(timeout=seconds + _PATIENCE)[0].splitlines()]
    except subprocess.TimeoutExpired:
        fared = []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if len(fared) < writers:
        writing.trouble = f"{writers - len(fared)} writer(s) never came back"
    if fared:
        counts = [result["groups"] for result in fared]
        writing.seconds = max(result["seconds"] for result in fared)
        writing.groups, writing.fewest, writing.most = int(sum(counts)), int(min(counts)), int(max(counts))
        writing.longest_ms = max(result["longest_ms"] for result in fared)
        writing.failed = int(sum(result["failed"] for result in fared))
        writing.cpu_us = sum(result["cpu"] for result in fared) / max(1, writing.groups * SIZE) * 1e6
    return writing


async def _make(url: str) -> None:
    """The collections and their indexes."""
    storage = MongoStorage(url)
    await storage.open()
    await storage.close()


async def _commit(url: str, name: str, user: str, seconds: float, begin: Barrier) -> None:
    """Once all are there, commit for so long, and print how it went. Its ids are its own."""
    storage = MongoStorage(url)
    await storage.open()
    assert storage.cluster is not None
    ids = itertools.count((NOW << 22) | (storage.cluster.me.number << 12))
    await asyncio.get_running_loop().run_in_executor(None, begin.wait)
    groups = failed = 0
    longest = cpu = 0.0
    began = time.perf_counter() + _WARM_UP
    while (started := time.perf_counter()) - began < seconds:
        if not cpu and started >= began:
            groups, longest, began, cpu = 0, 0.0, started, time.process_time()
        group = [
            Append(Message(next(ids), f"{name}/topic", f"u/{name}", name, NOW, 1, PAYLOAD), recipients=(user,))
            for _ in range(SIZE)
        ]
        while True:
            try:
                await storage.commit(group)
            except StorageUnavailable:
                failed += 1
                if time.perf_counter() - started > _SETTLE:
                    return
            else:
                break
        groups += 1
        longest = max(longest, time.perf_counter() - started)
    took = time.perf_counter() - began + (0.0 if cpu else _WARM_UP)  # one commit that took longer than that counts whole
    answer = {"groups": groups, "seconds": took, "longest_ms": longest * 1000, "failed": failed}
    os.write(1, json.dumps(answer | {"cpu": time.process_time() - cpu}).encode() + b"\n")  # a whole line at once
    await storage.close()


def main(url: str, seconds: float, users: Sequence[str]) -> None:
    """Make the database, fork a writer for each user, and wait for them."""
    context = multiprocessing.get_context("fork")
    maker = context.Process(target=lambda: asyncio.run(_make(url)))
    maker.start()
    maker.join()
    begin = context.Barrier(len(users))
    writers = [
        context.Process(target=lambda n=number, u=user: asyncio.run(_commit(url, f"w{n}", u, seconds, begin)))
        for number, user in enumerate(users)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
