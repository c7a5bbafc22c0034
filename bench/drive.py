"""One cell of the table: one shape of load on one running broker, in a generator process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench import process, wire
from bench.peers.base import Peer
from bench.shapes import Shape


@dataclass
class Options:
    """What the command line says about every cell."""

    seconds: float = 3.0
    quick: bool = False
    core: int | None = None


@dataclass
class Cell:
    """What came out. ``trouble`` says why the figures are missing, or why they are not to be trusted."""

    shape: str
    peer: str
    figures: dict[str, float] = field(default_factory=dict)
    trouble: str = ""


_runs = 0


def unique() -> str:
    """A name for a run, that no other has."""
    global _runs
    _runs += 1
    return f"b{_runs}x{time.time_ns() % 100_000_000}"


class _Watch(threading.Thread):
    """Samples the broker's memory, and keeps the first and the highest value since each mark, and what else it used by then."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._over = threading.Event()
        self._mark = ""
        self.first: dict[str, int] = {}
        self.highest: dict[str, int] = {}
        self.cpu: dict[str, float] = {}
        self.threads: dict[str, dict[str, float]] = {}
        self.written: dict[str, int] = {}
        self.at: dict[str, float] = {}

    def mark(self, name: str) -> None:
        """A new stretch begins."""
        bytes_now = process.resident(self._pid)
        self.first[name] = self.highest[name] = bytes_now
        self.cpu[name] = process.cpu_seconds(self._pid)
        self.threads[name] = process.cpu_by_thread(self._pid)
        self.written[name] = process.written_bytes(self._pid)
        self.at[name] = time.monotonic()
        self._mark = name

    def run(self) -> None:
        """Ten samples a second."""
        while not self._over.wait(0.1):
            if name := self._mark:
                self.highest[name] = max(self.highest[name], process.resident(self._pid))

    def stop(self) -> None:
        """No more samples."""
        self._over.set()
        self.join()


def measure(shape: Shape, peer: Peer, options: Options, *, version: int = wire.V311) -> Cell:
    """Run the shape once on the started peer."""
    spec: dict[str, object] = {"shape": shape.load, "port": peer.port, "run": unique(), "version": version}
    spec |= {"transport": shape.transport, "seconds": options.seconds, **shape.sizes, **(shape.quick if options.quick else {})}
    spec |= peer.login()
    if options.core is not None:
        spec["core"] = options.core
    cell = Cell(shape.name, peer.name)
    watch = _Watch(peer.pid)
    watch.start()
    cpu, others, began = process.cpu_seconds(peer.pid), _others(peer), time.monotonic()
    try:
        answer = generate(spec, watch.mark, shape.timeout)
    finally:
        watch.stop()
    if not peer.alive:
        cell.trouble = "the broker died"
    elif "trouble" in answer:
        cell.trouble = str(answer["trouble"])
    else:
        cell.figures = answer["figures"]
        cell.figures["others"] = max(0.0, (_others(peer) - others) / (time.monotonic() - began))
        _complete(cell, watch)
        if delivered := cell.figures.get("delivered"):
            used = process.cpu_seconds(peer.pid) - cpu
            if "loaded" in watch.cpu:
                used = watch.cpu["loaded"] - watch.cpu["loading"]
            cell.figures["cpu_us"] = used / delivered * 1e6
    return cell


def _others(peer: Peer) -> float:
    """Processor seconds of everything but the broker, the generator and us; brokers that wait their turn are among them."""
    return process.machine_cpu_seconds() - process.cpu_seconds(peer.pid) - process.own_cpu_seconds()


def generate(spec: dict[str, object], mark: Callable[[str], None], timeout: float) -> dict[str, Any]:
    """Start the generator, have its marks looked at, and return its last line: ``figures`` or ``trouble``."""
    generator = subprocess.Popen(
        [sys.executable, "-m", "bench.generator", json.dumps(spec)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert generator.stdin
    assert generator.stdout
    deadline = threading.Timer(timeout, generator.kill)
    deadline.start()
    try:
        for line in generator.stdout:
            answer = json.loads(line)
            if "mark" not in answer:
                return dict(answer)
            mark(answer["mark"])
            generator.stdin.write("\n")
            generator.stdin.flush()
        late = not deadline.is_alive()
        return {"trouble": f"no result within {timeout:g} s" if late else "the generator failed, see above"}
    finally:
        deadline.cancel()
        generator.kill()
        generator.wait()
        generator.stdin.close()
        generator.stdout.close()


def _complete(cell: Cell, watch: _Watch) -> None:
    """Add what only the parent knows, and say what does not add up."""
    figures = cell.figures
    if "loaded" in watch.at:
        seconds = watch.at["loaded"] - watch.at["loading"]
        figures["thread"] = process.busiest_thread(watch.threads["loading"], watch.threads["loaded"]) / seconds
        figures["disk_mb"] = (watch.written["loaded"] - watch.written["loading"]) / 1e6 / seconds
    if "connected" in watch.first:
        figures["kb"] = (watch.first["connected"] - watch.first["empty"]) / 1024 / figures["connections"]
        figures["core_rate"] = figures["connections"] / max(0.01, watch.cpu["connected"] - watch.cpu["empty"])
    if "filled" in watch.first:
        figures["growth"] = (watch.highest["filled"] - watch.first["filled"]) / 1e6
        figures["peak"] = (watch.highest["filled"] - watch.first["empty"]) / 1e6
    said = []
    missing = figures.get("expected", 0) - figures.get("delivered", 0)
    if missing > 0:
        said.append(f"{missing:,.0f} of {figures['expected']:,.0f} acknowledged messages were not delivered")
    elif missing < 0:
        said.append(f"{-missing:,.0f} delivered twice")
    if figures.get("misordered"):
        said.append(f"{figures['misordered']:,.0f} out of order")
    if figures.get("refused"):
        said.append(f"{figures['refused']:,.0f} refused")
    cell.trouble = ", ".join(said)
