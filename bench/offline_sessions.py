"""What durable sessions cost that nobody is connected to: the time until the listeners open, and memory, with more and more."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

from bench import process
from bench.filled import Kept
from bench.rounds import say
from bench.table import columns
from bench.wire import connect

SECONDS, MIB = 10.0, 400.0
"""What a million may take."""


def measure(counts: tuple[int, ...]) -> list[tuple[int, float, float]]:
    """(sessions, seconds from the start to open listeners, resident MiB after a device came back)."""
    found = []
    for count in counts:
        broker = Kept()
        try:
            if count:
                say(f"filling a database with {count:,} sessions")
                command = [sys.executable, "-m", "bench.prefill", broker.storage_url, f"--devices={count}"]
                subprocess.run(command, check=True, stdout=sys.stderr)
            began = time.monotonic()
            broker.start()
            seconds = time.monotonic() - began
            if count:
                _come_back(broker.port, f"device-{count - 1:07}")
            found.append((count, seconds, process.resident(broker.pid) / (1 << 20)))
        finally:
            broker.stop()
            broker.discard()
    return found


def _come_back(port: int, client_id: str) -> None:
    """Connect as one of the devices, whose session must be there."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(connect(client_id, clean=False))
        answer = client.recv(4)
        if answer != b"\x20\x02\x01\x00":
            raise RuntimeError(f"{client_id}: the broker does not know its session: {answer.hex()}")


def table(found: list[tuple[int, float, float]]) -> str:
    """The figures, and what a session adds to those of an empty broker."""
    idle = found[0][2]
    rows = [["durable sessions, nobody connected", "s until it listens", "resident MiB", "bytes a session"]]
    for count, seconds, resident in found:
        each = f"{(resident - idle) * (1 << 20) / count:.0f}" if count else ""
        rows.append([f"{count:,}", f"{seconds:.1f}", f"{resident:.0f}", each])
    aim = f"Aim for a million: under {SECONDS:.0f} s and {MIB:.0f} MiB, under 300 bytes a session."
    return f"{columns(rows)}\n{aim}"
