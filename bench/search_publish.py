"""What search takes from publishing, and how soon a message is found: ``python -m bench.search_publish [--seconds 10]``.

Runs the broker with persistence on SQLite in a process of its own, without and with search, by turns. Publishers in this
process send made-up chat texts with QoS 1 as fast as they are acknowledged, and, in a last run, at rates that the index can
keep up with. The broker's process asks its index, every 50 ms, how old the oldest message is that cannot be found yet.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bench import wire
from bench.drive import Cell
from bench.machine import loop_seconds
from bench.peers.tideline import Tideline
from bench.process import cpu_seconds, resident
from bench.shapes import SEARCH
from bench.table import OURS, columns

CONNECTIONS = 4
WINDOW = 256
RATES = (2000, 5000, 10_000, 15_000, 20_000)
"""Messages a second of the paced runs."""
_WARM = 1.0
_NO_TEXT = b"\xff" * 64


# --- the broker's process --------------------------------------------------------------------------------------------


async def broker(config: Path) -> None:
    """Serve until stdin closes; then print what was seen of the index's age as JSON."""
    sys.path.insert(0, str(Tideline.tree))  # compiled, where it was; so nothing of it may have been imported by now
    from broker.config.settings import load
    from broker.server import Server
    from plugins.search import SearchPlugin

    server = Server(load(config, os.environ))
    await server.start()
    plugin = next((plugin for plugin in server.plugin_host.group_plugins if isinstance(plugin, SearchPlugin)), None)
    print(next(iter(server.addresses.values()))[1], flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    if plugin is not None:  # a first message was published: once it is found, the indexer's process is at work
        await plugin.wait_indexed(await server.storage.last_id(), 60)
    print(flush=True)
    ages: list[int] = []
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
    while not ended.done():
        if plugin is not None:
            ages.append(plugin.lag().milliseconds)
        await asyncio.sleep(0.05)
    own, stored = time.process_time(), await server.storage.last_id()
    began = time.perf_counter()
    caught_up = plugin is None or await plugin.wait_indexed(stored, 300)
    seen = {"ages": ages, "catch_up": time.perf_counter() - began, "caught_up": caught_up, "broker_cpu": own}
    seen |= {"stored": server.counters.messages_stored}
    pid = getattr(plugin.indexer, "pid", None) if plugin is not None else None
    if pid is not None:
        seen |= {"indexer_cpu": cpu_seconds(pid), "indexer_memory": resident(pid)}
    print(json.dumps(seen), flush=True)
    await server.stop()


# --- the publishers --------------------------------------------------------------------------------------------------


class Connection:
    """One publisher: a window of messages in flight."""

    def __init__(self, port: int, number: int, payloads: Sequence[bytes], *, paced: bool) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(wire.connect(f"p{number}"))
        self.socket.recv(4)
        self.frames = [self._frame(f"chat/{number}/{place % 16}", place + 1, some) for place, some in enumerate(payloads)]
        self.paced = paced
        self.sent = self.acked = self.left = 0
        if not paced:
            self.send(WINDOW)

    @staticmethod
    def _frame(topic: str, packet_id: int, payload: bytes) -> bytes:
        body = len(topic).to_bytes(2, "big") + topic.encode() + packet_id.to_bytes(2, "big") + payload
        return b"\x32" + wire.varint(len(body)) + body

    def send(self, count: int) -> None:
        """Publish the next messages."""
        size = len(self.frames)
        self.socket.sendall(b"".join(self.frames[(self.sent + place) % size] for place in range(count)))
        self.sent += count

    def receive(self) -> int:
        """Take PUBACKs; how many."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the broker closed the connection")
        self.left += len(data)
        acked, self.left = divmod(self.left, 4)
        self.acked += acked
        return acked


def _publish_one(port: int, text: str) -> None:
    first = Connection(port, 2 * CONNECTIONS, [text.encode()], paced=True)
    first.send(1)
    while not first.acked:
        first.receive()
    first.socket.close()


def publish(port: int, seconds: float, texts: list[str], rate: int = 0, *, beside: bool = False) -> float:
    """Acknowledged texts per second; sent as fast as they are acknowledged, or ``rate`` a second, and ``beside`` that as many
    connections that send what is not text as fast as it is acknowledged."""
    payloads = [text.encode() for text in texts]
    ours = [Connection(port, number, payloads, paced=rate > 0) for number in range(CONNECTIONS)]
    full = [
        Connection(port, CONNECTIONS + number, [_NO_TEXT] * len(texts), paced=False) for number in range(CONNECTIONS * beside)
    ]
    connections = {connection.socket.fileno(): connection for connection in (*ours, *full)}
    start, began, counted = time.perf_counter(), 0.0, 0
    while True:
        now = time.perf_counter()
        if not began and now >= start + _WARM:
            began, counted = now, sum(connection.acked for connection in ours)
        if began and now >= began + seconds:
            break
        if rate:
            due = int((now - start) * rate / CONNECTIONS)
            for connection in ours:
                connection.send(min(due - connection.sent, WINDOW - connection.sent + connection.acked))
        for fd in select.select(list(connections), [], [], 0.01 if rate else 1.0)[0]:
            connection = connections[fd]
            acked = connection.receive()
            if acked and not connection.paced:
                connection.send(acked)
    total = sum(connection.acked for connection in ours) - counted
    for connection in connections.values():
        connection.socket.close()
    return float(total / (now - began))


class Run(NamedTuple):
    """One broker with fresh data: the publish rate, and what it saw of its index."""

    rate: float
    seen: dict[str, Any]

    def age(self, share: float) -> float:
        """Milliseconds after which a message is found, at a percentile of the moments of the run."""
        ages = sorted(self.seen["ages"]) or [0]
        return float(ages[min(len(ages) - 1, int(len(ages) * share))])

    def cost(self, what: str) -> float:
        """Processor time a message, in microseconds; of the broker until the end of publishing, of the indexer until it has
        caught up. What starting took is in it."""
        return float(self.seen.get(what, 0.0) / max(1, self.seen["stored"]) * 1e6)


def measure(search: dict[str, object] | None, seconds: float, texts: list[str], rate: int = 0, *, beside: bool = False) -> Run:
    """Run a broker and publish."""
    with tempfile.TemporaryDirectory() as home:
        plugins: dict[str, object] = {
            "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
            "persistence": {"url": f"sqlite:///{home}/tideline.db"},
            "sync": {},
        }
        if search is not None:
            plugins["search"] = {"path": f"{home}/search.db", **search}
        listeners = [{"name": "bench", "type": "tcp", "bind": "127.0.0.1:0"}]
        config = Path(home) / "config.yaml"
        sections = {"listeners": listeners, "log": {"level": "warning"}, "plugins": plugins}
        config.write_text(yaml.safe_dump(sections, sort_keys=False))
        command = [sys.executable, "-m", "bench.search_publish", "--broker", str(config)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            port = int(process.stdout.readline())
            _publish_one(port, texts[0])
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()
            reached = publish(port, seconds, texts, rate, beside=beside)
            process.stdin.write("\n")
            process.stdin.flush()
            return Run(reached, json.loads(process.stdout.readline()))


class Figures(NamedTuple):
    """Runs of a measurement: by turns without and with search, at each rate, and at the highest rate beside full load."""

    without: list[Run]
    within: list[Run]
    paced: dict[int, Run]
    beside: Run
    seconds: float


def measure_all(seconds: float, rounds: int, search: dict[str, object]) -> Figures:
    """Each on a broker with fresh data."""
    from bench.search import Corpus  # imports the plugins, which `broker` does from another tree

    corpus = Corpus(2)
    texts = [corpus.text() for _ in range(1024)]
    without, within = [], []
    for _ in range(rounds):
        without.append(measure(None, seconds, texts))
        within.append(measure(search, seconds, texts))
    paced = {rate: measure(search, seconds, texts, rate) for rate in RATES}
    return Figures(without, within, paced, measure(search, seconds, texts, RATES[-1], beside=True), seconds)


def cells(found: Figures) -> list[Cell]:
    """Beside publishing without search, and what the interpreter takes for a loop here, now."""
    loop = loop_seconds() * 1000
    burst = found.seconds + _WARM
    made = [
        Cell(SEARCH.name, "without", {"rate": statistics.median(run.rate for run in found.without)}),
        Cell(SEARCH.name, "interpreter", {"soon": loop, "beside": loop, "behind": loop}),
    ]
    ours = {"rate": statistics.median(run.rate for run in found.within)}
    ours |= {"soon": found.paced[RATES[-1]].age(0.99), "beside": found.beside.age(0.99)}
    ours["behind"] = statistics.median(run.seen["catch_up"] for run in found.within) / burst
    ours["indexer_us"] = statistics.median(run.cost("indexer_cpu") for run in found.within)
    return [Cell(SEARCH.name, OURS, ours), *made]


def table(found: Figures) -> str:
    """A line for each."""
    rows = [["", "messages/s", "findable p50 ms", "p99 ms", "caught up after s", "broker CPU us", "indexer CPU us", "its MB"]]
    rows.append(_row("without search", found.without))
    rows.append(_row("with search", found.within))
    rows += [_row(f"with search, {rate:,}/s", [run]) for rate, run in found.paced.items()]
    rows.append(_row(f"... {RATES[-1]:,}/s beside full load", [found.beside]))
    share = statistics.median(run.rate for run in found.within) / statistics.median(run.rate for run in found.without)
    note = (
        f"Publishing with search reaches {share:.1%} of publishing without (target: at least 90 %). CPU is per message. "
        "At full rate the processors are all taken, and the index catches up when the burst is over.\n"
        f"Full load: {CONNECTIONS} more publishers of what is not text, and not in the index, as fast as they are acknowledged."
    )
    title = f"Search beside publishing: {CONNECTIONS} publishers, QoS 1, on SQLite, {Tideline().version()}"
    return f"{title}\n\n{columns(rows)}\n\n{note}"


def _row(name: str, runs: Sequence[Run]) -> list[str]:
    def median(figures: Sequence[float], digits: int = 0) -> str:
        return f"{statistics.median(figures):,.{digits}f}"

    cells = [name, median([run.rate for run in runs])]
    if not runs[0].seen["ages"]:
        return [*cells, "", "", "", median([run.cost("broker_cpu") for run in runs], 1), "", ""]
    cells += [median([run.age(share) for run in runs]) for share in (0.5, 0.99)]
    cells.append(median([run.seen["catch_up"] for run in runs], 1))
    cells += [median([run.cost(what) for run in runs], 1) for what in ("broker_cpu", "indexer_cpu")]
    return [*cells, median([run.seen.get("indexer_memory", 0) / 1e6 for run in runs])]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--search", default="{}", help="settings of the search plugin, as JSON")
    parser.add_argument("--broker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.broker:
        asyncio.run(broker(options.broker))
        return
    print(table(measure_all(options.seconds, options.rounds, json.loads(options.search))))


if __name__ == "__main__":
    main()
