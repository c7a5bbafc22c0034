"""`python -m bench.storage`: how fast the embedded storage appends, reads, and what an fsync costs here.

Each line commits groups of one size, one recipient and 128 bytes of payload per message, from the writing thread itself:
alone; beside a thread that runs pure Python without a pause; and beside one that gives the interpreter lock away for a
moment every 50 microseconds, as an event loop does. The processor time per message is the writing thread's.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.records import Append, Message
from storage.sqlite import SqliteStorage

PAYLOAD = b"x" * 128
NOW = 1_700_000_000_000


def appends(first: int, count: int, topics: int) -> list[Append]:
    """Messages with ids from ``first``, spread over topics, each to one inbox."""
    return [
        Append(
            Message(id, f"site/{id % topics}/temperature", f"u/user-{id % 50}", f"device-{id % 50}", NOW + id, 1, PAYLOAD),
            recipients=(f"u/reader-{id % topics}",),
        )
        for id in range(first, first + count)
    ]


def fsync_ms(directory: Path, count: int = 200) -> float:
    """The median time of writing 4 KiB over a file's beginning and fsync'ing it."""
    times = []
    with open(directory / "fsync", "wb", buffering=0) as file:
        for _ in range(count):
            file.seek(0)
            file.write(b"x" * 4096)
            started = time.perf_counter()
            os.fdatasync(file)
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def _spin(stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        for i in range(1000):
            number += i * i


def _loop(stop: threading.Event) -> None:
    """About 50 microseconds of Python, then a system call that gives the lock away, as between two sockets."""
    reader, writer = os.pipe()
    number = 0
    while not stop.is_set():
        for i in range(1000):
            number += i * i
        os.write(writer, b"x" * 256)
        os.read(reader, 256)


@contextmanager
def beside(work: Callable[[threading.Event], None] | None) -> Iterator[None]:
    """Run ``work`` on another thread meanwhile."""
    stop = threading.Event()
    thread = threading.Thread(target=work, args=(stop,)) if work else None
    if thread:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if thread:
            thread.join()


class Run:
    """One opened storage, whose writer is driven from a thread."""

    def __init__(self, storage: SqliteStorage, topics: int, first: int = 1) -> None:
        self.storage = storage
        self.topics = topics
        self.next = first

    def commits(self, size: int, seconds: float) -> tuple[float, float, list[float]]:
        """Appends per second, microseconds of this thread's processor per append, and the milliseconds of each commit.

        Messages are made while the clocks stand.
        """
        writer = self.storage._writer
        assert writer is not None
        times: list[float] = []
        busy = 0.0
        while sum(times) < seconds:
            groups = [appends(self.next + i * size, size, self.topics) for i in range(max(1, 4096 // size))]
            self.next += size * len(groups)
            began = time.thread_time()
            for group in groups:
                started = time.perf_counter()
                writer.serve(group, None, self.storage._checkpointer)
                times.append(time.perf_counter() - started)
            busy += time.thread_time() - began
        count = size * len(times)
        return count / sum(times), busy / count * 1e6, sorted(t * 1000 for t in times)


def _line(name: str, rate: float, busy: float, times: list[float]) -> str:
    p50, p99, p999 = (times[min(len(times) - 1, int(len(times) * q))] for q in (0.5, 0.99, 0.999))
    return (
        f"{name:34} {rate:10,.0f}/s {busy:6.2f} us   p50 {p50:6.2f}  p99 {p99:6.2f}  p99.9 {p999:6.2f}  max {times[-1]:6.1f} ms"
    )


async def _measure(directory: Path, arguments: argparse.Namespace) -> None:
    storage = SqliteStorage(directory / "bench.db")
    await storage.open()
    assert storage._write_worker is not None
    run = Run(storage, arguments.topics)

    async def measure(name: str, size: int, seconds: float) -> None:
        assert storage._write_worker is not None
        print(_line(name, *await storage._write_worker.run(lambda: run.commits(size, seconds))), flush=True)

    await measure("warm-up", 64, 0.5)
    kinds = (("alone", None), ("beside a loop", _loop), ("beside pure Python", _spin))
    for size in map(int, filter(None, arguments.sizes.split(","))):
        for label, work in kinds:
            with beside(work):
                await measure(f"groups of {size}, {label}", size, arguments.seconds)
    if arguments.fill:
        await _fill(run, arguments.fill)
    await _read(storage)
    await storage.close()


async def _fill(run: Run, count: int) -> None:
    """Groups of 64 until ``count`` messages are stored, a line per fifth."""
    worker = run.storage._write_worker
    assert worker is not None
    for part in range(1, 6):
        times: list[float] = []
        rates: list[tuple[float, float]] = []
        while run.next < count * part // 5:
            rate, busy, some = await worker.run(lambda: run.commits(64, 1))
            rates.append((rate, busy))
            times += some
        if times:
            rate, busy = (statistics.median(values) for values in zip(*rates, strict=True))
            print(_line(f"groups of 64, up to {run.next - 1:,}", rate, busy, sorted(times)), flush=True)


async def _read(storage: SqliteStorage) -> None:
    """A drain of one inbox in pages of 256."""
    for label, work in (("alone", None), ("beside pure Python", _spin)):
        with beside(work):
            after = count = 0
            started = time.perf_counter()
            while (page := await storage.read_inbox("u/reader-0", after, 256)) and time.perf_counter() - started < 2:
                after = page[-1].seq
                count += len(page)
            print(f"{'inbox in pages of 256, ' + label:34} {count / (time.perf_counter() - started):10,.0f}/s")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topics", type=int, default=10, help="topics, and inboxes, to spread the messages over")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to commit for each line")
    parser.add_argument("--sizes", default="1,16,64,256", help="group sizes")
    parser.add_argument("--fill", type=int, default=0, help="go on until this many messages are stored")
    parser.add_argument("--directory", type=Path, default=None, help="where to put the database (a disk, not a tmpfs)")
    parser.add_argument("--switch-interval", type=float, default=None, help="seconds, see sys.setswitchinterval")
    arguments = parser.parse_args()
    if arguments.switch_interval:
        sys.setswitchinterval(arguments.switch_interval)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        print(f"fsync of 4 KiB: {fsync_ms(Path(name)):.2f} ms", flush=True)
        asyncio.run(_measure(Path(name), arguments))


if __name__ == "__main__":
    main()
