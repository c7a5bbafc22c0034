"""What a thousand polite clients notice of a greedy, a hostile and a slow one, apart and together.

The polite clients are measured three times with one broker: alone; beside as many processes as will make the trouble, which
only compute (`busy`); and beside the trouble. The middle one says what the machine does to them, which broker, generator and
trouble share: where it is as fast as alone, all that is slower beside the trouble is the broker's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from bench import drive, wire
from bench.drive import Cell, Options
from bench.peers.tideline import TidelineGuarded
from bench.polite import PHASES
from bench.rounds import median, say
from bench.table import columns

BOUND = 2.0
"""How many times as long the polite clients' 99th percentile may be."""

BESIDE: dict[str, tuple[str, ...]] = {
    "a greedy one": ("greedy",),
    "a hostile one": ("hostile",),
    "a slow one": ("slow",),
    "all three": ("greedy", "hostile", "slow"),
}
BUSY = "busy"
"""The process of `bench.trouble` that only computes."""
_SIZES = {"connections": 1000, "messages": 400}
_FIGURES = ("ack_p50", "ack_p99", "delivery_p50", "delivery_p99")


class _Trouble:
    """The processes that make it, and what they say they did."""

    def __init__(self) -> None:
        self._processes: list[tuple[str, subprocess.Popen[str]]] = []
        self.said: list[str] = []

    def start(self, kinds: Sequence[str], port: int) -> None:
        for kind in kinds:
            command = [sys.executable, "-m", "bench.trouble", kind, str(port)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._processes.append((kind, process))

    def stop(self) -> None:
        for kind, process in self._processes:
            try:
                out, _ = process.communicate(timeout=20)
                answer = json.loads(out)
                did = ", ".join(f"{count:,} {what}" for what, count in sorted(answer["done"].items()))
                if kind != BUSY:
                    self.said.append(f"{kind}: {did or 'nothing'}" + (f" ! {answer['failed']}" if answer["failed"] else ""))
            except (subprocess.TimeoutExpired, ValueError):
                self.said.append(f"{kind}: no answer")
            finally:
                process.kill()
                process.wait()
        self._processes.clear()


def measure(rounds: int, options: Options) -> tuple[list[Cell], list[str]]:
    """For each company a new broker and all of `PHASES`. And what the others say they did."""
    cells, said = [], []
    for _ in range(rounds):
        for company, kinds in BESIDE.items():
            say(f"1,000 polite clients beside {company}")
            cell, did = _cell(company, kinds, options)
            cells.append(cell)
            say("  " + (cell.trouble or ", ".join(f"{name} {value:.2f} ms" for name, value in cell.figures.items())))
            for line in did:
                say(f"  {line}")
            said += [f"{company}: {line}" for line in did]
    return cells, said


def _cell(company: str, kinds: Sequence[str], options: Options) -> tuple[Cell, list[str]]:
    broker, trouble = TidelineGuarded(), _Trouble()
    broker.start()
    try:
        spec: dict[str, object] = {"shape": "polite", "port": broker.port, "run": drive.unique(), "version": wire.V311}
        spec |= {"seconds": options.seconds, "warm_up": 1.5, **_SIZES}
        if options.core is not None:
            spec["core"] = options.core

        def mark(phase: str) -> None:
            trouble.stop()
            if phase == "busy":
                trouble.start([BUSY] * len(kinds), broker.port)
            elif phase == "beside":
                trouble.start(kinds, broker.port)

        answer = drive.generate(spec, mark, 120.0)
    finally:
        trouble.stop()
        alive = broker.alive
        broker.stop()
    cell = Cell("hostile", company)
    if not alive:
        cell.trouble = "the broker died"
    elif "trouble" in answer:
        cell.trouble = str(answer["trouble"])
    else:
        cell.figures = answer["figures"]
    return cell, trouble.said


def table(cells: Sequence[Cell], said: Sequence[str]) -> str:
    """Milliseconds in each phase, and how many times as long as alone it takes beside each company."""
    rows = [["ms: alone, busy, beside", *(name.replace("_", " ") for name in _FIGURES), "p99 times", ""]]
    for company in BESIDE:
        line, times = [company], []
        for figure in _FIGURES:
            alone, busy, beside = (median(cells, "hostile", company, f"{phase}_{figure}") for phase in PHASES)
            if alone is None or busy is None or beside is None:
                break
            line.append(f"{alone:.1f}, {busy:.1f}, {beside:.1f}")
            if figure.endswith("p99"):
                times.append(beside / alone)
        else:
            worst = max(times)
            rows.append([*line, f"{times[0]:.1f}, {times[1]:.1f}", "reached" if worst <= BOUND else "MISSED"])
    title = (
        f"Tideline at its defaults: 1,000 polite clients, {_SIZES['messages']} messages a second together, QoS 1, "
        f"beside others (target: p99 at most {BOUND:g} times that alone; busy: beside processes that only compute)"
    )
    return "\n".join([title, "", columns(rows), *said])
