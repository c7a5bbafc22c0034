"""What search takes from publishing, and how soon a message is found: ``python -m bench.search_publish [--seconds 10]``.

Runs the broker with persistence on SQLite in a process of its own, without and with search, by turns. Publishers in this
process send made-up chat texts with QoS 1 as fast as they are acknowledged. The broker's process asks its index, every 50
ms, how old the oldest message is that cannot be found yet.
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
from pathlib import Path

import yaml

from bench import wire
from bench.search import Corpus

CONNECTIONS = 4
WINDOW = 256


# --- the broker's process --------------------------------------------------------------------------------------------


async def broker(config: Path) -> None:
    """Serve until stdin closes; then print what was seen of the index's age as JSON."""
    from broker.config import load
    from broker.server import Server
    from plugins.search import SearchPlugin

    server = Server(load(config, os.environ))
    await server.start()
    plugin = next((plugin for plugin in server.chassis.group_plugins if isinstance(plugin, SearchPlugin)), None)
    if plugin is not None and plugin._indexer is None:
        await plugin.attach(server.storage)
    print(next(iter(server.addresses.values()))[1], flush=True)
    ages: list[int] = []
    ended = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
    while not ended.done():
        if plugin is not None:
            ages.append(plugin.lag().milliseconds)
        await asyncio.sleep(0.05)
    stored = await server.storage.last_id()
    began = time.perf_counter()
    caught_up = plugin is None or await plugin.wait_indexed(stored, 300)
    print(json.dumps({"ages": ages, "catch_up": time.perf_counter() - began, "caught_up": caught_up}), flush=True)
    await server.stop()


# --- the publishers --------------------------------------------------------------------------------------------------


class Connection:
    """One publisher: a window of messages in flight."""

    def __init__(self, port: int, number: int, texts: list[str]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(wire.connect(f"p{number}"))
        self.socket.recv(4)
        self.frames = [self._frame(f"chat/{number}/{place % 16}", place + 1, text) for place, text in enumerate(texts)]
        self.sent = self.acked = self.left = 0

    @staticmethod
    def _frame(topic: str, packet_id: int, text: str) -> bytes:
        body = len(topic).to_bytes(2, "big") + topic.encode() + packet_id.to_bytes(2, "big") + text.encode()
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


def publish(port: int, seconds: float, texts: list[str]) -> float:
    """Acknowledged messages per second."""
    connections = {}
    for number in range(CONNECTIONS):
        connection = Connection(port, number, texts)
        connections[connection.socket.fileno()] = connection
        connection.send(WINDOW)
    warm, began, counted = time.perf_counter() + 1.0, 0.0, 0
    while True:
        now = time.perf_counter()
        if not began and now >= warm:
            began, counted = now, sum(connection.acked for connection in connections.values())
        if began and now >= began + seconds:
            break
        for fd in select.select(list(connections), [], [], 1.0)[0]:
            connection = connections[fd]
            acked = connection.receive()
            if acked:
                connection.send(acked)
    total = sum(connection.acked for connection in connections.values()) - counted
    for connection in connections.values():
        connection.socket.close()
    return total / (now - began)


def measure(search: dict[str, object] | None, seconds: float, texts: list[str]) -> tuple[float, dict[str, object]]:
    """One broker with fresh data: the publish rate, and what it saw of its index."""
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
            rate = publish(int(process.stdout.readline()), seconds, texts)
            process.stdin.write("\n")
            process.stdin.flush()
            seen: dict[str, object] = json.loads(process.stdout.readline())
        return rate, seen


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
    corpus = Corpus(2)
    texts = [corpus.text() for _ in range(1024)]
    rates: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(options.rounds):
        for search in (None, json.loads(options.search)):
            rate, seen = measure(search, options.seconds, texts)
            rates[search is not None].append(rate)
            line = f"{'with search' if search is not None else 'without search':16}{rate:10,.0f} messages/s"
            ages = seen["ages"]
            if search is not None and isinstance(ages, list):
                ages.sort()
                line += f", findable after p50 {ages[len(ages) // 2]} ms, p99 {ages[len(ages) * 99 // 100]} ms"
                line += f", caught up {seen['catch_up']:.1f} s after the end"
            print(line, flush=True)
    share = statistics.median(rates[True]) / statistics.median(rates[False])
    print(f"publishing with search reaches {share:.1%} of publishing without")


if __name__ == "__main__":
    main()
