"""Where Tideline's time goes: `python -m bench.profile SHAPE`.

First without a profiler: processor time per delivered message of each thread, which nothing distorts. Then the event
loop's thread under cProfile, which makes everything about twice as slow but counts calls. Last, where py-spy is
installed, samples of all threads.
"""

from __future__ import annotations

import argparse
import pstats
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench.drive import Cell, Options, measure
from bench.peers.tideline import Tideline, TidelineInMemory, TidelinePure
from bench.process import cpu_by_thread
from bench.rounds import say
from bench.shapes import SHAPES, Shape
from bench.table import columns

_ROOTS = ("site-packages/", "/broker/", "/plugins/", "/storage/", "lib/python")


def _where(file: str, line: int, name: str) -> str:
    """A short place: the path from the room or the package on."""
    for root in _ROOTS:
        if root in file:
            file = (
                root.strip("/") + "/" + file.rpartition(root)[2]
                if root.endswith("/") and root[0] == "/"
                else file.rpartition(root)[2]
            )
            break
    return f"{file}:{line} {name}" if line else name


def _checked(cell: Cell) -> float:
    """How many messages were delivered in the cell."""
    if cell.trouble:
        say(f"! {cell.trouble}")
    if not cell.figures.get("delivered"):
        raise SystemExit(f"nothing was delivered: {cell.trouble}")
    return cell.figures["delivered"]


def threads(kind: type[Tideline], shape: Shape, options: Options) -> str:
    """Processor time per delivered message, by thread."""
    peer = kind()
    peer.start()
    try:
        before = cpu_by_thread(peer.pid)
        cell = measure(shape, peer, options)
        after = cpu_by_thread(peer.pid)
    finally:
        peer.stop()
    delivered = _checked(cell)
    used = sorted(((seconds - before.get(name, 0.0), name) for name, seconds in after.items()), reverse=True)
    rows = [["thread", "µs per delivery", "s"]]
    rows += [[name, f"{seconds / delivered * 1e6:.2f}", f"{seconds:.2f}"] for seconds, name in used if seconds > 0]
    rate = f", {cell.figures['rate']:,.0f}/s" if "rate" in cell.figures else ""
    return f"Without a profiler: {delivered:,.0f} deliveries{rate}\n\n{columns(rows)}"


def calls(kind: type[Tideline], shape: Shape, options: Options, top: int, *, inclusive: bool) -> str:
    """The event loop's thread under cProfile: the functions with the most time of their own, per delivered message.

    What starting and stopping alone cost is subtracted.
    """
    _, idle = _profiled(kind, None, options)
    delivered, busy = _profiled(kind, shape, options)
    entries = []
    for place, spent in busy.items():
        count, own, total = (after - before for after, before in zip(spent, idle.get(place, (0.0, 0.0, 0.0)), strict=True))
        entries.append((own, total, count, place))
    entries.sort(key=lambda entry: entry[1 if inclusive else 0], reverse=True)
    rows = [["function", "calls per delivery", "own µs", "with callees µs"]]
    for own, total, count, place in entries[:top]:
        rows.append([place, *(f"{value / delivered:.2f}" for value in (count, own * 1e6, total * 1e6))])
    return f"Under cProfile (event loop's thread): {delivered:,.0f} deliveries\n\n{columns(rows)}"


def _profiled(
    kind: type[Tideline], shape: Shape | None, options: Options
) -> tuple[float, dict[str, tuple[float, float, float]]]:
    """Deliveries, and (calls, own seconds, seconds with callees) of every function; without a shape just start and stop."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "profile"
        peer = kind(before=("-m", "cProfile", "-o", str(output)))
        peer.start()
        try:
            delivered = _checked(measure(shape, peer, options)) if shape else 0.0
        finally:
            peer.stop()
        if not output.exists():
            raise SystemExit("cProfile wrote nothing: the broker did not end on SIGTERM")
        stats = pstats.Stats(str(output)).stats  # type: ignore[attr-defined]
    return delivered, {_where(*place): (count, own, total) for place, (_, count, own, total, _) in stats.items()}


def samples(kind: type[Tideline], shape: Shape, options: Options, top: int) -> str:
    """All threads under py-spy; nothing but a hint where it is not installed."""
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{Path('/usr/local/bin')}")
    if spy is None:
        return "py-spy is not installed (pip install py-spy): no samples of the other threads."
    peer = kind()
    peer.start()
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "samples"
        seconds = max(1, round(options.seconds + 0.5))
        command = [
            spy,
            "record",
            "-p",
            str(peer.pid),
            "-d",
            str(seconds),
            "-r",
            "500",
            "-t",
            "-F",
            "-f",
            "raw",
            "-o",
            str(output),
        ]
        try:
            recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            time.sleep(0.3)
            measure(shape, peer, options)
            _, said = recorder.communicate(timeout=60)
        finally:
            peer.stop()
        if not output.exists():
            return f"py-spy recorded nothing: {said.strip()}"
        return _sampled(output.read_text(), top)


def _sampled(raw: str, top: int) -> str:
    """Own share of each function per thread, from lines of ``thread;frame;…;frame count``."""
    own: Counter[tuple[str, str]] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        own[frames[0], frames[-1]] += int(count)
    total = sum(own.values()) or 1
    rows = [["function", "thread", "own share"]]
    rows += [[frame, thread, f"{count / total:.1%}"] for (thread, frame), count in own.most_common(top)]
    return f"py-spy, {total:,} samples of running threads\n\n{columns(rows)}"


def main() -> None:
    """The command."""
    known = {
        shape.name: shape for shape in SHAPES if any(row.figure == "rate" for row in shape.rows) or shape.load == "latency"
    }
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("shape", choices=known)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--top", type=int, default=30, help="how many functions to print")
    parser.add_argument("--inclusive", action="store_true", help="order by time with callees instead of own time")
    parser.add_argument("--full", action="store_true", help="the full sizes for drain and backlog instead of the quick ones")
    parser.add_argument("--memory", action="store_true", help="on memory:// instead of SQLite")
    given = parser.parse_args()
    kind: type[Tideline] = TidelineInMemory if given.memory else TidelinePure  # a profiler sees nothing of compiled functions
    shape, options = known[given.shape], Options(given.seconds, quick=not given.full)
    print(f"{shape.title}\n")
    print(threads(kind, shape, options), end="\n\n", flush=True)
    print(calls(kind, shape, options, given.top, inclusive=given.inclusive), end="\n\n", flush=True)
    print(samples(kind, shape, options, given.top))


if __name__ == "__main__":
    main()
