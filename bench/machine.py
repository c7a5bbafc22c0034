"""What the figures were taken on, since they mean little without it."""

from __future__ import annotations

import os
import platform
import statistics
import time
from pathlib import Path


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def fsync_ms(directory: Path) -> float:
    """Median milliseconds of appending 4 KB and making it durable with fsync."""
    path = directory / f"fsync-{os.getpid()}"
    times = []
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(50):
                began = time.perf_counter()
                file.write(bytes(4096))
                os.fsync(file.fileno())
                times.append(time.perf_counter() - began)
    finally:
        path.unlink(missing_ok=True)
    return statistics.median(times) * 1000


def loop_seconds() -> float:
    """Median processor seconds of ten million additions in this interpreter, as a measure of a core."""
    times = []
    for _ in range(3):
        began, total = time.process_time(), 0
        for number in range(10_000_000):
            total += number
        times.append(time.process_time() - began)
    return statistics.median(times)


def _polling() -> str:
    """How long an idle virtual processor polls before it halts, where it is one of those that can (docs/operate.md)."""
    try:
        if Path("/sys/devices/system/cpu/cpuidle/current_governor").read_text().strip() != "haltpoll":
            return ""
        polled = int(Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns").read_text())
    except (OSError, ValueError):
        return ""
    return f", an idle processor polls {polled / 1000:g} µs before it halts" if polled else ", an idle processor halts at once"


def describe(directory: Path) -> str:
    """One line: processor, cores, kernel, Python, load, what an fsync costs where the data goes, and what a wake-up does."""
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    return (
        f"{_processor()}, {cores} cores shared by broker and generator, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, load before the run {load:.1f}, one fsync {fsync_ms(directory):.2f} ms"
        f"{_polling()}"
    )
