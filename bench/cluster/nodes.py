"""The database, the nodes over it, and the proxies that count what goes between them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.cluster.proxy import Tally
from bench.peers.base import PeerError
from bench.peers.mongo import Mongo
from bench.peers.tideline import Tideline


class Node(Tideline):
    """One `tideline serve` over a MongoDB database."""

    name = "node"
    title = "Tideline, a node"

    @classmethod
    def build(cls) -> str:
        """Which build the nodes are."""
        return f"Tideline ({Tideline().version()})"

    def __init__(self, url: str) -> None:
        """``url`` of the database."""
        super().__init__()
        self._url = url

    @property
    def storage_url(self) -> str:
        """The database that all nodes have."""
        return self._url


class Proxy:
    """The counting proxy as a process, one port for each node."""

    def __init__(self, mongo: Mongo, count: int) -> None:
        host, port = mongo.address
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.cluster.proxy", host, str(port), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ports: list[int] = json.loads(self._line() or "[]")
        if not self.ports:
            raise PeerError("the counting proxy did not start")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def tallies(self) -> list[Tally]:
        """What was counted so far, by node."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return list(json.loads(self._line()).values())

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


@dataclass
class Running:
    """Nodes that run. ``proxy`` is None where they reach the database directly."""

    mongo: Mongo
    nodes: list[Node] = field(default_factory=list)
    proxy: Proxy | None = None

    def cpu(self) -> list[float]:
        """Processor seconds of each node so far, to the microsecond."""
        return [time.clock_gettime((~node.pid << 3) | 2) for node in self.nodes]  # the process's clock: clock_getcpuclockid(3)

    def last_words(self) -> list[str]:
        """What each node has said last, and whether it still runs."""
        return [f"node {n} ({'runs' if node.alive else 'ended'}): {node.last_words()}" for n, node in enumerate(self.nodes, 1)]

    def helpers(self) -> list[int]:
        """Process ids of the database and of the proxy, where they are ours."""
        pids = [self.mongo.pid] if self.mongo.alive else []
        return pids + ([self.proxy.pid] if self.proxy is not None else [])

    def tallies(self) -> list[Tally]:
        """What each node sent so far; nothing where nobody counts."""
        return self.proxy.tallies()[: len(self.nodes)] if self.proxy is not None else [{} for _ in self.nodes]


@contextmanager
def running(mongo: Mongo, count: int, *, counted: bool) -> Iterator[Running]:
    """Start ``count`` nodes over a new database, one after the other, and stop them."""
    database = f"tideline_bench_{uuid.uuid4().hex}"
    cluster = Running(mongo)
    try:
        if counted:
            cluster.proxy = Proxy(mongo, count)
        for number in range(count):
            through = cluster.proxy.ports[number] if cluster.proxy is not None else 0
            node = Node(mongo.url(database, through))
            node.start()
            cluster.nodes.append(node)
        yield cluster
    finally:
        for node in cluster.nodes:
            node.stop()
        if cluster.proxy is not None:
            cluster.proxy.stop()
