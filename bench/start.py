"""How long Tideline takes from its start to open listeners, with millions of stored messages and durable sessions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from bench import process
from bench.drive import Cell
from bench.filled import Kept
from bench.machine import loop_seconds
from bench.rounds import say
from bench.shapes import START
from bench.table import OURS, columns

MESSAGES, SESSIONS = 10_000_000, 1_000_000
"""What the aim is for."""
ENDS = ("stopped", "killed")


class Full(Kept):
    """Has its time."""

    name = "full"
    start_timeout = 900.0


def measure(messages: int, sessions: int) -> dict[str, dict[str, float]]:
    """By how the broker before had ended: ``seconds`` until it answers, ``cpu`` of them, ``mib`` resident then."""
    broker, found = Full(), {}
    try:
        fill = [sys.executable, "-m", "bench.prefill", broker.storage_url]
        say(f"filling a database with {messages:,} messages and {sessions:,} sessions")
        subprocess.run([*fill, f"--messages={messages}", "--filters=0"], check=True, stdout=sys.stderr)
        if sessions:
            subprocess.run([*fill, f"--devices={sessions}"], check=True, stdout=sys.stderr)
        for end in ENDS:
            began = time.monotonic()
            broker.start()
            seconds, used = time.monotonic() - began, process.cpu_seconds(broker.pid)
            found[end] = {"seconds": seconds, "cpu": used, "mib": process.resident(broker.pid) / (1 << 20)}
            say(f"  after one that was {end}: {seconds:.1f} s")
            os.kill(broker.pid, signal.SIGKILL)
            broker.stop()
    finally:
        broker.stop()
        broker.discard()
    return found


def cells(found: dict[str, dict[str, float]], messages: int, sessions: int) -> list[Cell]:
    """Beside what the interpreter takes for a loop here, now. What an empty broker takes counts as the sessions' too."""
    loop = loop_seconds()
    ours = {end: figures["cpu"] for end, figures in found.items()}
    if messages >= MESSAGES and sessions >= SESSIONS:
        ours["seconds"] = max(figures["seconds"] for figures in found.values())
    if sessions:
        ours["session_bytes"] = found["stopped"]["mib"] * (1 << 20) / sessions
    return [
        Cell(START.name, OURS, ours),
        Cell(START.name, "interpreter", dict.fromkeys(found, loop)),
    ]


def table(found: dict[str, dict[str, float]], messages: int, sessions: int) -> str:
    """A line for each end."""
    rows = [["the broker before was", "s until it listens", "of processor time", "resident MiB"]]
    for end, figures in found.items():
        rows.append([end, f"{figures['seconds']:.1f}", f"{figures['cpu']:.1f}", f"{figures['mib']:.0f}"])
    return f"Start with {messages:,} stored messages and {sessions:,} durable sessions (aim: 10 s)\n\n{columns(rows)}"
