"""The cluster run: the clients of the crash run behind a balancer, while nodes and the database are killed and frozen.

The seed decides what is published, who is struck after how many events, and for how long. What is checked at the end is what
the database holds and what each client saw. Order is that of each conversation and each inbox, not of message ids.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.support import laws_check as law
from tests.support.balancer import Balance, Balancer
from tests.support.laws_crash import WINDOW, CrashRun, World
from tests.support.laws_process import PATIENCE, BrokerProcess
from tests.support.mongo_server import MongoServer

LEASE = 2.0
"""Seconds after which a node without a sign of life is dead."""
_FENCED = 4
"""The exit code of a node that finds itself marked dead."""


class ClusterRun(CrashRun):
    """``nodes`` brokers over one database. ``check`` needs `run` to have come to its end."""

    rest = 4 * PATIENCE

    def __init__(
        self, folder: Path, mongo: MongoServer, database: str, seed: int, nodes: int = 3, lease: float = LEASE
    ) -> None:
        self.url = mongo.url(database, f"tideline_lease_ms={int(lease * 1000)}")
        self.dice = random.Random(seed)
        self.mongo = mongo
        limits = {"recent_entries": 64}
        self.nodes = [BrokerProcess(folder, self.url, mqtt={"inflight_window": WINDOW}, limits=limits) for _ in range(nodes)]
        self.broker = self.nodes[0]
        self.balancer = self._balance(folder, seed)
        self.world = World(self.balancer.port, seed)
        self.kills: list[law.Kill] = []
        self.struck: list[str] = []
        """What happened, for whoever reads a failure."""
        self._instant = threading.Event()
        self._wanderer_is_away = False

    def _balance(self, folder: Path, seed: int) -> Balance:
        """What clients connect to."""
        balancer = Balancer((node.port for node in self.nodes), random.Random(seed + 99))
        balancer.start()
        return balancer

    def run(self, rounds: int) -> None:
        """Strike so many times, then let everything arrive, and end cleanly."""
        try:
            for node in self.nodes:
                node.start()
            self._live(rounds)
        finally:
            for node in self.nodes:
                node.kill() if not self.struck else self._end(node)
            self.balancer.stop()

    def _end(self, node: BrokerProcess) -> None:
        if node.process is not None and node.process.poll() is None:
            node.process.terminate()
            node.process.wait(PATIENCE)
        node.kill()

    def _round(self, number: int) -> None:
        events = self.dice.randrange(20, 300)
        assert self.world.pulse.wait(events, PATIENCE), f"nothing goes on in round {number}: {self.struck[-5:]}\n{self._logs()}"
        self._upset_a_device(number)
        self._instant.wait(self.dice.uniform(0, 0.05))
        strikes: list[Callable[[], None]] = [
            self._kill_a_node,
            self._freeze_a_node,
            self._kill_a_node,
            self._kill_the_database,
            self._freeze_the_database,
            self._leave_and_return,
        ]
        strikes[number % len(strikes)]()
        self._restart_ended()

    def _logs(self) -> str:
        return "\n".join(f"--- node at {node.port}\n{node.log[-1500:]}" for node in self.nodes)

    # --- strikes -------------------------------------------------------------------------------------------------------

    def _mark(self, what: str) -> None:
        now = time.monotonic()
        self.struck.append(what)
        self.kills.append(law.Kill(now, law.lateness(self.world.pulse, now)))

    def _kill_a_node(self) -> None:
        node = self.dice.choice(self.nodes)
        self._mark(f"killed {node.port}")
        node.kill()
        self._instant.wait(self.dice.uniform(0, 1.5 * LEASE))
        node.start()

    def _freeze_a_node(self) -> None:
        """For less or more than a lease's time; the balancer notices a second later, and cuts its connections."""
        node = self.dice.choice(self.nodes)
        length = self.dice.choice((0.3, LEASE, 2.5 * LEASE))
        self._mark(f"froze {node.port} for {length:g} s")
        node.signal(signal.SIGSTOP)
        self._instant.wait(min(length, 1.0))
        if length > 1.0:
            self.balancer.mark_down(node.port)
            self._instant.wait(length - 1.0)
        self._mark(f"thawed {node.port}")
        node.signal(signal.SIGCONT)
        self.balancer.mark_up(node.port)

    def _kill_the_database(self) -> None:
        assert self.mongo is not None
        self._mark("killed the database")
        self.mongo.kill()
        self._instant.wait(self.dice.uniform(0, 0.5))
        self.mongo.start()

    def _freeze_the_database(self) -> None:
        assert self.mongo is not None
        length = self.dice.choice((0.5, 1.5 * LEASE))
        self._mark(f"froze the database for {length:g} s")
        self.mongo.freeze()
        self._instant.wait(length)
        self.mongo.thaw()

    def _leave_and_return(self) -> None:
        """As a rolling restart does it."""
        node = self.dice.choice(self.nodes)
        if node.process is None or node.process.poll() is not None:
            return
        self._mark(f"stopped {node.port}")
        node.process.terminate()
        code = node.process.wait(PATIENCE)
        node.process = None
        assert code in (0, _FENCED), f"the node ended with {code}:\n{node.log[-3000:]}"
        node.start()

    def _restart_ended(self) -> None:
        """As a supervisor does: a node that found itself marked dead has ended."""
        for node in self.nodes:
            if node.process is not None and (code := node.process.poll()) is not None:
                assert code == _FENCED, f"the node at {node.port} ended with {code}:\n{node.log[-3000:]}"
                node.process = None
                node.start()

    def _come_to_rest(self) -> None:
        self._instant.wait(1.5 * LEASE)  # who is to find itself marked has by then
        self._restart_ended()
        super()._come_to_rest()
