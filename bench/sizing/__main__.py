"""`python -m bench.sizing`: the command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.sizing import text
from bench.sizing.figures import MEASURED, BadFigures, Figures
from bench.sizing.model import Assumptions, Load, NoPlan, Plan, plan
from bench.sizing.simulate import Latency, simulate


def _positive(given: str) -> float:
    try:
        value = float(given.replace(",", "").replace("_", ""))
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{given!r} must be a number above 0")
    return value


def _share(given: str) -> float:
    value = _positive(given)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{given!r} must be at most 1, a share of a core")
    return value


def _whole(given: str) -> int:
    value = _positive(given)
    if value != int(value):
        raise argparse.ArgumentTypeError(f"{given!r} must be a whole number")
    return int(value)


def _parser() -> argparse.ArgumentParser:
    usual = Assumptions()
    parser = argparse.ArgumentParser(
        prog="python -m bench.sizing", description="Nodes and database for so many messages a second, from measured costs."
    )
    add = parser.add_argument
    add("--messages", type=_positive, nargs="+", default=[10_000.0, 100_000.0, 1_000_000.0], help="a second, to all nodes")
    add("--recipients", type=_positive, default=1.0, help="inboxes that a message goes to (default 1)")
    add("--payload", type=_whole, default=usual.payload, help="bytes (default %(default)s)")
    add("--cores", type=_whole, default=usual.cores, help="of a machine that runs nodes (default %(default)s)")
    add("--speed", type=_positive, default=usual.speed, help="of a core, times the measured one (default %(default)s)")
    add("--load", type=_share, default=usual.load, help="how busy a node's core may be (default %(default)s)")
    add("--write-ms", type=_positive, default=usual.write_ms, help="a majority write (default %(default)s)")
    add("--probe-ms", type=_positive, help="a linearizable read (default: as a write)")
    add("--read-ms", type=_positive, default=usual.read_ms, help="a read of the majority's data (default %(default)s)")
    between = "ms from one look of a node to the next, at least (default %(default)s)"
    add("--between-looks", type=_positive, default=usual.between_looks_ms, metavar="MS", help=between)
    add("--shard-documents", type=_positive, default=usual.shard_documents, help="written a second by a shard (%(default)s)")
    add("--shard-bytes", type=_positive, default=usual.shard_bytes, help="a second to a shard (%(default)s)")
    add("--streams", action="store_true", help="the server has change streams: nodes need not poll")
    add("--figures", type=Path, default=MEASURED, help="what `python -m bench --only cluster --figures FILE` wrote")
    add("--measured", action="store_true", help="print the measured figures themselves")
    add("--write-page", type=Path, metavar="FILE", help="renew what the commands in docs/sizing.md print")
    return parser


def output(arguments: list[str]) -> str:
    """What the command prints. Raises `BadFigures`, and `NoPlan` where no load has one."""
    given = _parser().parse_args(arguments)
    figures = Figures.read(given.figures)
    if given.measured:
        return text.measured(figures)
    assumed = Assumptions(
        given.probe_ms or given.write_ms,
        given.write_ms,
        given.read_ms,
        given.load,
        given.speed,
        given.cores,
        given.payload,
        given.between_looks,
        given.shard_documents,
        given.shard_bytes,
    )
    made: list[tuple[Plan, Latency]] = []
    impossible: list[NoPlan] = []
    for messages in given.messages:
        try:
            one = plan(Load(messages, given.recipients), figures, assumed)
        except NoPlan as error:
            impossible.append(error)
        else:
            made.append((one, simulate(one, figures, assumed, stream=given.streams)))
    if not made:
        raise impossible[0]
    return text.plans(made, impossible, figures, assumed, stream=given.streams)


def main() -> None:
    """Print it, or renew the page."""
    given = _parser().parse_args()
    try:
        if given.write_page:
            given.write_page.write_text(text.page(given.write_page.read_text(), output))
        else:
            print(output(sys.argv[1:]))
    except (BadFigures, NoPlan, OSError) as error:
        sys.exit(f"python -m bench.sizing: {error}")


if __name__ == "__main__":
    main()
