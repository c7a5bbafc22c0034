"""`python -m bench`: the command line, the order of work, and what is printed."""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from bench import (
    bounds,
    conversations,
    filled,
    hostile,
    lists,
    machine,
    members,
    offline_sessions,
    one_user,
    pages,
    presence,
    recall,
    release,
    revoke,
    schedules,
    search,
    search_meilisearch,
    search_publish,
    start,
    storage_bytes,
    storage_mongodb,
    table,
    versions,
)
from bench.cluster.run import run as run_cluster
from bench.drive import Cell, Options
from bench.kept import Kept
from bench.peers import PEERS, USUAL
from bench.peers.tideline import Tideline, interpreter
from bench.rounds import Contestant, run
from bench.shapes import SHAPES

SECTIONS = (
    *(shape.name for shape in SHAPES),
    "filled",
    "versions",
    "one-user",
    "schedules",
    "presence",
    "members",
    "conversations",
    "lists",
    "mongodb",
    "cluster",
    "search",
    "start",
    "bytes",
    "offline-sessions",
    "recall",
    "hostile",
    "revoke",
)
LEAST_ROUNDS = 3
"""Of a release."""


def _names(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        given = tuple(part.strip() for part in text.split(",") if part.strip())
        if wrong := [name for name in given if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: choose from {', '.join(known)}")
        return given

    return parse


def _version(text: str) -> str:
    try:
        return release.checked_version(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Tideline beside other MQTT brokers, with one load generator, in one run."
    )
    parser.add_argument("--only", type=_names(SECTIONS), default=SECTIONS, help=f"of {', '.join(SECTIONS)}")
    parser.add_argument(
        "--peers", type=_names(tuple(PEERS)), default=tuple(peer.name for peer in USUAL), help=f"of {', '.join(PEERS)}"
    )
    parser.add_argument("--quick", action="store_true", help="one short round with little data; figures are only indicative")
    parser.add_argument("--seconds", type=float, help="measured time of a cell (default 3, quick 1)")
    parser.add_argument("--rounds", type=int, help="rounds whose median counts (default 3, quick 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every cell of every round")
    parser.add_argument(
        "--figures", type=Path, metavar="FILE", help="write the figures of 'cluster' for `python -m bench.sizing`"
    )
    parser.add_argument("--release", type=_version, metavar="VERSION", help="keep this run's ratios as those of a release")
    pages_help = "keep the figures in bench/measured.json, and renew the tables of README.md and docs/performance.md with them"
    parser.add_argument("--pages", action="store_true", help=pages_help)
    parser.add_argument("--dir", type=Path, help="where the brokers' data goes; a real disk, not a tmpfs")
    python_help = "what Tideline runs in: another interpreter, or a script that starts one"
    parser.add_argument("--python", type=interpreter, default=Tideline.python, help=python_help)
    parser.add_argument("--core", type=int, help="pin the generator to this core")
    parser.add_argument("--messages", type=int, help="in 'filled' (5,000,000), 'search' (1,000,000) and 'start' (10,000,000)")
    parser.add_argument("--sessions", type=int, help="durable ones in 'start' (1,000,000)")
    parser.add_argument("--filters", type=int, help="subscription filters in 'filled' (default 100,000, quick 10,000)")
    parser.add_argument(
        "--devices", type=int, nargs="+", help="of one user in 'one-user' (default 1,500 and 20,000, quick 1,500)"
    )
    given = parser.parse_args(argv)
    if given.release and (given.quick or (given.rounds and given.rounds < LEAST_ROUNDS)):
        parser.error(f"--release needs {LEAST_ROUNDS} rounds or more, and not --quick: a release's noise is that of its rounds")
    if given.pages and given.quick:
        parser.error("--pages keeps figures for the documentation, and --quick makes none that are more than indicative")
    return given


def _allow_many_files() -> None:
    """Thousands of idle connections need as many descriptors here and, inherited, in the brokers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(65536, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main(argv: list[str] | None = None) -> None:
    """Run what was asked for and print it."""
    given = _arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _allow_many_files()
    if given.dir:
        given.dir.mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(given.dir.resolve())
    Tideline.python = given.python
    options = Options(given.seconds or (1.0 if given.quick else 3.0), given.quick, given.core)
    rounds = given.rounds or (1 if given.quick else 3)
    about = machine.describe(Path(tempfile.gettempdir()))

    parts, cells = [f"{about}\n{rounds} interleaved round(s) of {options.seconds:g} s, medians"], []
    shapes = [shape for shape in SHAPES if shape.name in given.only]
    if shapes:
        cells = run(shapes, [Contestant(name, PEERS[name]()) for name in given.peers], rounds, options)
        parts += _main_part(cells, given.peers)
    if "filled" in given.only and "tideline" in given.peers:
        messages = given.messages or (200_000 if given.quick else 5_000_000)
        filters = given.filters or (10_000 if given.quick else 100_000)
        more = filled.measure(rounds, options, messages, filters)
        parts += [filled.table(more, messages, filters), table.troubles(more)]
        cells += more
    if "versions" in given.only and "tideline" in given.peers:
        more = versions.measure(rounds, options)
        parts += [versions.table(more), table.troubles(more)]
        cells += more
    if "one-user" in given.only and "tideline" in given.peers:
        counts = given.devices or ((1_500,) if given.quick else (1_500, 20_000))
        more = one_user.measure(rounds, options, counts)
        parts += [one_user.table(more, counts), table.troubles(more)]
        cells += more
    if "schedules" in given.only and "tideline" in given.peers:
        parts.append(schedules.report(5.0 if given.quick else 20.0))
    if "presence" in given.only and "tideline" in given.peers:
        parts.append(presence.report(5_000 if given.quick else 100_000))
    if "members" in given.only and "tideline" in given.peers:
        parts.append(members.table(members.measure((100, 2_000) if given.quick else (100, 100_000))))
    if "conversations" in given.only and "tideline" in given.peers:
        parts.append(conversations.table(conversations.measure((100, 1_000) if given.quick else (100, 1_000, 10_000))))
    if "lists" in given.only and "tideline" in given.peers:
        parts.append(lists.table(lists.measure((1_000, 5_000) if given.quick else (5_000, 50_000))))
    if "mongodb" in given.only and "tideline" in given.peers:
        parts.append(storage_mongodb.table(storage_mongodb.measure(rounds, options)))
    if "cluster" in given.only and "tideline" in given.peers:
        parts.append(run_cluster(rounds, options, about, given.figures))
    if "search" in given.only and "tideline" in given.peers:
        published = search_publish.measure_all(options.seconds * 2, rounds, {})
        parts.append(search_publish.table(published))
        cells += search_publish.cells(published)
        parts.append(search.report(given.messages or (50_000 if given.quick else 1_000_000), 50 if given.quick else 200))
        parts.append(search_meilisearch.report(10_000 if given.quick else 100_000, 5 if given.quick else 20))
    if "start" in given.only and "tideline" in given.peers:
        messages = given.messages or (100_000 if given.quick else start.MESSAGES)
        sessions = given.sessions if given.sessions is not None else (10_000 if given.quick else start.SESSIONS)
        started = start.measure(messages, sessions)
        parts.append(start.table(started, messages, sessions))
        cells += start.cells(started, messages, sessions)
    if "bytes" in given.only and "tideline" in given.peers:
        count = 20_000 if given.quick else 200_000
        used = storage_bytes.measure(count)
        parts.append(storage_bytes.table(used, count))
        cells += storage_bytes.cells(used)
    if "offline-sessions" in given.only and "tideline" in given.peers:
        counts = (0, 10_000, 50_000) if given.quick else (0, 200_000, 1_000_000)
        parts.append(offline_sessions.table(offline_sessions.measure(counts)))
    if "recall" in given.only and "tideline" in given.peers:
        parts.append(recall.table(recall.measure((1_000, 10_000) if given.quick else (1_000, 10_000, 100_000))))
    if "hostile" in given.only and "tideline" in given.peers:
        more, said = hostile.measure(rounds, options)
        parts += [hostile.table(more, said), table.troubles(more)]
        cells += more
    if "revoke" in given.only and "tideline" in given.peers:
        parts.append(revoke.table(revoke.measure(3 if given.quick else 20)))
    parts += [table.targets(cells), *_released(cells, given.release, about), table.disturbance(cells)]
    print("\n\n".join(part for part in parts if part))
    if given.pages:
        kept = Kept.read()
        kept.add(cells, _command(), about)
        kept.write()
        pages.main()
    if given.json:
        given.json.write_text(json.dumps({"machine": about, "cells": [asdict(cell) for cell in cells]}, indent=1) + "\n")


def _command() -> str:
    """This one, without what says where its figures go."""
    return "python -m bench " + shlex.join(one for one in sys.argv[1:] if one != "--pages")


def _main_part(cells: list[Cell], names: tuple[str, ...]) -> list[str]:
    meanings = [["", "version", "what its PUBACK means"]]
    meanings += [[PEERS[name].title, PEERS[name]().version() or "-", PEERS[name].ack_means] for name in names]
    notes = [
        "× is how many times better Tideline is (above 1: better). Payload 128 bytes, QoS 1 to durable QoS 1 subscribers.",
        "A rate counts until the last delivery. Every acknowledged message is checked to arrive, in order; ! marks a note.",
        "(ceiling) is the generator against an echo that keeps nothing.",
        table.busiest(cells),
    ]
    return [
        table.figures(cells, names, {name: PEERS[name].title for name in names}),
        "\n".join(note for note in notes if note),
        table.troubles(cells),
        table.columns(meanings),
        bounds.table(cells),
    ]


def _released(cells: list[Cell], version: str | None, about: str) -> list[str]:
    """The run beside the last release; and kept, where it is one itself."""
    now, build = release.ratios(cells), PEERS["tideline"]().version()
    if not now:
        return []
    parts = []
    if last := release.newest():
        parts.append(release.table(last, now, build))
    if version:
        path = release.FOLDER / f"{version}.json"
        release.Release(version, build, about, _command(), now).keep(path)
        parts.append(f"{path}: {len(now)} ratios")
    return parts
