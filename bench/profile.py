"""Where Tideline's time goes: `python -m bench.profile SHAPE`.

First without a profiler: processor time per delivered message of each thread, which nothing distorts. Pure Python then once
more under cProfile, which makes everything about twice as slow but counts the calls of the event loop's thread. Last with
samples of all threads (`bench.stacks`), which say what part of that time each step takes (`bench.steps`).
"""

from __future__ import annotations

import argparse
import pstats
import tempfile
from pathlib import Path

from bench.drive import Cell, Options, measure
from bench.flame import own, svg
from bench.peers.tideline import Tideline, TidelineInMemory, TidelinePure
from bench.process import cpu_by_thread
from bench.rounds import say
from bench.shapes import SHAPES, Shape
from bench.stacks import NoProfiler, Stacks, taken
from bench.steps import table
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
    """How many messages were delivered in the cell; of a storm, how many clients connected."""
    if cell.trouble:
        say(f"! {cell.trouble}")
    done = cell.figures.get("delivered") or cell.figures.get("connections")
    if not done:
        raise SystemExit(f"nothing was delivered: {cell.trouble}")
    return done


def threads(kind: type[Tideline], shape: Shape, options: Options) -> tuple[dict[str, float], str]:
    """Microseconds of the processor for each delivered message, by thread (`bench.stacks.Stacks`), and as a table."""
    peer = kind()
    peer.suit(shape)
    peer.start()
    try:
        peer_pid, before = peer.pid, cpu_by_thread(peer.pid)
        cell = measure(shape, peer, options)
        after = cpu_by_thread(peer.pid)
    finally:
        peer.stop()
    delivered = _checked(cell)
    used = sorted(((seconds - before.get(name, 0.0), name) for name, seconds in after.items()), reverse=True)
    rows = [["thread", "µs per delivery", "s"]]
    rows += [[name, f"{seconds / delivered * 1e6:.2f}", f"{seconds:.2f}"] for seconds, name in used if seconds > 0]
    rate = f", {cell.figures['rate']:,.0f}/s" if "rate" in cell.figures else ""
    spent = {name: seconds / delivered * 1e6 for seconds, name in used}
    loop = sum(each for name, each in spent.items() if name.split()[0] == str(peer_pid))
    writer = max((each for name, each in spent.items() if name.split()[0] != str(peer_pid)), default=0.0)
    by_thread = {"event loop": loop, "writer": writer, "others": sum(spent.values()) - loop - writer}
    return by_thread, f"Without a profiler: {delivered:,.0f} deliveries{rate}\n\n{columns(rows)}"


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
        if shape is not None:
            peer.suit(shape)
        peer.start()
        try:
            delivered = _checked(measure(shape, peer, options)) if shape else 0.0
        finally:
            peer.stop()
        if not output.exists():
            raise SystemExit("cProfile wrote nothing: the broker did not end on SIGTERM")
        stats = pstats.Stats(str(output)).stats  # type: ignore[attr-defined]
    return delivered, {_where(*place): (count, own, total) for place, (_, count, own, total, _) in stats.items()}


def sampled(kind: type[Tideline], shape: Shape, options: Options) -> Stacks:
    """What a profiler saw of all threads while the shape ran."""
    peer = kind()
    peer.suit(shape)
    peer.start()
    try:
        return taken(peer.pid, kind.tree != TidelinePure.tree, lambda: _checked_loudly(shape, peer, options))
    finally:
        peer.stop()


def _checked_loudly(shape: Shape, peer: Tideline, options: Options) -> None:
    _checked(measure(shape, peer, options))


def innermost(stacks: Stacks, top: int) -> str:
    """Own share of each function."""
    found = own(stacks)
    total = found.total() or 1
    rows = [["function", "thread", "own share"]]
    rows += [[frame, thread, f"{count / total:.1%}"] for (thread, frame), count in found.most_common(top)]
    return f"{total:,} samples\n\n{columns(rows)}"


def main() -> None:
    """The command."""
    known = {
        shape.name: shape
        for shape in SHAPES
        if any(row.figure == "rate" for row in shape.rows) or shape.load in ("latency", "many")
    }
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("shape", choices=known)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--top", type=int, default=30, help="how many functions to print")
    parser.add_argument("--inclusive", action="store_true", help="order calls by time with callees instead of own time")
    parser.add_argument("--full", action="store_true", help="the full sizes for drain and backlog instead of the quick ones")
    parser.add_argument("--memory", action="store_true", help="on memory:// instead of SQLite")
    parser.add_argument("--pure", action="store_true", help="pure Python, also where the core is compiled; counts calls, too")
    parser.add_argument("--flame", type=Path, metavar="FILE", help="write a flame graph: an SVG")
    given = parser.parse_args()
    kind: type[Tideline] = TidelineInMemory if given.memory else TidelinePure if given.pure else Tideline
    shape, options = known[given.shape], Options(given.seconds, quick=not given.full)
    print(f"{shape.title}, {kind().version()}\n")
    used, text = threads(kind, shape, options)
    print(text, end="\n\n", flush=True)
    if kind.tree == TidelinePure.tree:  # a profiler that counts calls sees nothing of compiled functions
        print(calls(kind, shape, options, given.top, inclusive=given.inclusive), end="\n\n", flush=True)
    try:
        stacks = sampled(kind, shape, options)
    except NoProfiler as error:
        raise SystemExit(str(error)) from error
    print(table(stacks, used), end="\n\n")
    print(innermost(stacks, given.top))
    if given.flame:
        given.flame.write_text(svg(stacks, f"{shape.title}, {kind().version()}: processor time of the broker"))


if __name__ == "__main__":
    main()
