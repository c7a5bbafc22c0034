"""The process that makes trouble beside the polite clients: `python -m bench.trouble greedy|hostile|slow|busy PORT`.

    greedy   publishes as fast as its socket takes it
    hostile  floods with CONNECTs, guesses passwords, sends malformed packets, and leaves connections half open
    slow     subscribes to everything, and reads next to nothing
    busy     computes, and has nothing to do with the broker: what the machine alone does to the polite clients

It runs until its stdin closes, and says at the end what it did, as JSON. It takes only what nobody else wants of the
processors: elsewhere it would have a machine of its own, and what slows the polite clients is to be the broker, not the
generator's want of a processor. A high nice value is not enough for that: the kernel lets such a process finish its turn of
some milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable

from bench import wire

VICTIM = "victim"
"""The user whose password is guessed."""
_CHUNK = 1 << 16
_PATIENCE = 15.0

Done = Counter[str]


async def greedy(port: int, done: Done) -> None:
    """QoS 1 without a window: what bounds it is that the broker reads no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(wire.connect("greedy"))
    await reader.readexactly(4)
    sheet = wire.Sheet("greedy/flood", 128)

    async def count() -> None:
        while data := await reader.read(_CHUNK):
            done["messages acknowledged"] += len(data) // 4

    counting = asyncio.create_task(count())
    try:
        while not counting.done():
            writer.write(sheet.frames(0, 512))
            await writer.drain()
    finally:
        counting.cancel()


async def slow(port: int, done: Done) -> None:
    """A durable device that reads 2 KiB a second, and acknowledges nothing."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(wire.connect("slow", clean=False))
    await reader.readexactly(4)
    writer.write(wire.subscribe(1, "#"))
    while data := await reader.read(512):
        done["bytes read"] += len(data)
        await asyncio.sleep(0.25)


async def hostile(port: int, done: Done) -> None:
    """All of it at once, from one address."""

    async def answered(kind: str, data: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            async with asyncio.timeout(_PATIENCE):
                answer = await reader.read(64)
            what = f"code {answer[3]}" if len(answer) > 3 and answer[0] == wire.CONNACK else "no answer"
            done[f"{kind}: {what}"] += 1
        finally:
            writer.transport.abort()

    numbers = iter(range(1 << 60))

    async def flood() -> None:
        await answered("connects", wire.connect(f"flood{next(numbers)}"))

    async def guess() -> None:
        await answered("passwords", wire.connect(f"guess{next(numbers)}", login=(VICTIM, os.urandom(8).hex())))

    async def malformed() -> None:
        await answered("malformed", wire.connect(f"bad{next(numbers)}") + b"\x36\xff\xff\xff\xff\xff" + os.urandom(64))

    async def half_open() -> None:
        await answered("half open", b"\x10")

    kinds: list[tuple[int, Callable[[], Awaitable[None]]]] = [(20, flood), (20, guess), (10, malformed), (200, half_open)]
    async with asyncio.TaskGroup() as group:
        for count, attempt in kinds:
            for _ in range(count):
                group.create_task(_again(attempt, done))


async def busy(port: int, done: Done) -> None:
    """As much of the processor as there is."""
    while True:
        sum(range(10_000))
        await asyncio.sleep(0)


async def _again(attempt: Callable[[], Awaitable[None]], done: Done) -> None:
    while True:
        try:
            await attempt()
        except (OSError, TimeoutError) as error:
            done[f"{type(error).__name__}"] += 1
            await asyncio.sleep(0.01)


async def _until_told(work: Awaitable[None]) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait() -> None:
        sys.stdin.read()
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(told.set)

    threading.Thread(target=wait, daemon=True).start()
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(told.wait())
    await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        working.result()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


KINDS: dict[str, Callable[[int, Done], Awaitable[None]]] = {
    "greedy": greedy,
    "hostile": hostile,
    "slow": slow,
    "busy": busy,
}


def _yield_to_everybody() -> None:
    os.nice(19)
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main(kind: str, port: str) -> None:
    """Make trouble."""
    _yield_to_everybody()
    done: Done = Counter()
    failed = ""
    try:
        asyncio.run(_until_told(KINDS[kind](int(port), done)))
    except (OSError, asyncio.IncompleteReadError, ExceptionGroup) as error:
        failed = str(error)
    print(json.dumps({"done": done, "failed": failed}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
