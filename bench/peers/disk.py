"""The bare disk as a column: what no broker that waits for it can be faster than."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from bench.peers.base import Peer

_PAGE = 4096
_FILE = 64 << 20
"""Bytes that are written over and over, as a log is: where a file grows, each sync writes its new length too."""


class Disk(Peer):
    """Writes over a file that is there, and fdatasync, by this process alone. No broker runs: `bench.rounds` calls `write`."""

    name = "disk"
    title = "(disk)"
    ack_means = "written over a file and fdatasync'd: no broker, only the disk"

    def start(self) -> None:
        """A file of its full length."""
        self.home = self.make_home()
        self._file = os.open(self.home / "log", os.O_RDWR | os.O_CREAT)
        for _ in range(_FILE >> 20):
            os.write(self._file, bytes(1 << 20))
        os.fsync(self._file)

    def stop(self) -> None:
        """Remove it."""
        if self.alive:
            os.close(self._file)
            self.remove_home()

    @property
    def alive(self) -> bool:
        """Whether the file is there."""
        return self.home != Path()

    def write(self, sizes: Mapping[str, int], seconds: float) -> dict[str, float]:
        """The figures that a shape of these ``sizes`` has of brokers: a page at a time for one message in flight, else all that
        can be in flight at once."""
        size = sizes.get("size", 128)
        group = size * sizes.get("window", 1) * sizes.get("pairs", 1)
        if "window" not in sizes:
            times = self._times(_PAGE, seconds)
            return {"ack_p50": times[len(times) // 2] * 1e3, "ack_p99": times[len(times) * 99 // 100] * 1e3}
        times = self._times(group, seconds)
        rate = group * len(times) / sum(times)
        return {"rate": rate / size, "mb": rate / 1e6}

    def _times(self, length: int, seconds: float) -> list[float]:
        """Seconds of each write of so many bytes with its sync, sorted."""
        data, at = bytes(length), 0
        times: list[float] = []
        ends = time.perf_counter() + seconds
        while not times or time.perf_counter() < ends:
            at = at if at + length <= _FILE else 0
            began = time.perf_counter()
            os.pwrite(self._file, data, at)
            os.fdatasync(self._file)
            times.append(time.perf_counter() - began)
            at += length
        return sorted(times)
