"""Where an index stands while tasks are under way: over every mix of failures, crashes and ends, as a server queues tasks.

The server of these tests has the queue alone: tasks in order, each as a whole, and on behind one that failed.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any

import pytest

from plugins.search.engine import EARLIER, SearchUnavailable
from plugins.search.meili_chain import AHEAD, IDS, Chain, Link, stand
from tests.support.seeds import seeds


class _Server:
    """Tasks in order. A task adds messages and our documents, or fails and does nothing."""

    def __init__(self) -> None:
        self.messages: set[int] = set()
        self.own: dict[str, dict[str, Any]] = {}
        self.queue: deque[tuple[range, list[dict[str, Any]], asyncio.Future[bool]]] = deque()

    def position(self) -> int:
        return stand(self.own.values()).get(0, 0)

    def work(self, succeeds: bool) -> None:
        if not self.queue:
            return
        messages, own, ended = self.queue.popleft()
        if succeeds:
            self.messages.update(messages)
            self.own |= {document["id"]: document for document in own}
        ended.set_result(succeeds)


class _Client:
    """What the index does with a chain, without the requests."""

    def __init__(self, server: _Server) -> None:
        self.server = server
        self.chain = Chain()
        self.taken = self.read = server.position()
        self.under_way: deque[tuple[Link, asyncio.Future[bool]]] = deque()

    def send(self, size: int) -> None:
        link = self.chain.begin({0: self.read + size})
        ended: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.server.queue.append((range(self.read + 1, self.read + size + 1), self.chain.documents(link), ended))
        self.under_way.append((link, ended))
        self.read += size

    def look(self) -> None:
        """See what has ended; behind a failure, all that was sent comes again."""
        while self.under_way and self.under_way[0][1].done():
            link, ended = self.under_way.popleft()
            self.chain.end(link, ended.result())
            if ended.result():
                self.taken = link.positions[0]
                continue
            if self.under_way:
                with pytest.raises(SearchUnavailable):
                    self.chain.begin({})
            for behind, _ in self.under_way:
                self.chain.end(behind, False)
            self.under_way.clear()
            self.read = self.taken


@pytest.mark.parametrize("seed", seeds(*range(25), more=range(25, 500)))
async def test_no_kill_and_no_failure_makes_the_index_claim_what_it_has_not(seed: int) -> None:
    rng = random.Random(seed)
    window, fails = rng.choice([1, 2, 3, 8, AHEAD]), rng.choice([0.0, 0.05, 0.3])
    waits = rng.random() < 0.7  # who opens an index waits for what was queued before; no hole may be either way
    server = _Server()
    client = _Client(server)
    seen = 0
    for _ in range(300):
        step = rng.random()
        if step < 0.45 and len(client.under_way) < window:
            client.send(rng.randint(1, 5))
        elif step < 0.8:
            server.work(rng.random() >= fails)
        elif step < 0.98:
            client.look()
            seen = max(seen, client.taken)
        else:
            while waits and server.queue:
                server.work(rng.random() >= fails)
            client = _Client(server)  # killed; what it queued is carried out all the same
        assert set(range(1, server.position() + 1)) <= server.messages, "a hole"
    while client.under_way or server.queue:
        server.work(True)
        client.look()
    client.send(1)
    server.work(True)
    client.look()
    assert server.position() == client.taken
    # A failure may have overwritten a part of the chain that a killed one left: some is done again then.
    assert fails or not waits or client.taken >= seen, "what is known to be done is told to who comes next"
    assert set(range(1, client.taken + 1)) <= server.messages


async def test_what_was_done_ahead_counts_although_nobody_saw_it_end() -> None:
    server = _Server()
    client = _Client(server)
    for _ in range(AHEAD):
        client.send(10)
    server.work(True)
    assert server.position() == 10
    for done in range(2, AHEAD + 1):
        server.work(True)
        assert server.position() == 10 * done


async def test_a_task_that_failed_ends_the_chain_and_the_next_run_does_not_join_it() -> None:
    server = _Server()
    client = _Client(server)
    for _ in range(4):
        client.send(10)
    for succeeds in (True, False, True, True):
        server.work(succeeds)
    assert server.position() == 10
    client.look()
    client.send(5)
    server.work(True)
    assert server.position() == 15, "the documents of the third and the fourth task are still there"
    client = _Client(server)
    client.send(5)
    client.send(5)
    server.work(True)
    assert server.position() == 20
    server.work(True)
    assert server.position() == 25


def test_what_earlier_versions_wrote_is_read() -> None:
    assert stand([]) == {}
    assert stand([{"id": "state", "own": 1, "position": "0"}]) == {}
    assert stand([{"id": "state", "own": 1, "position": str((1 << 62) + 7)}]) == {EARLIER: (1 << 62) + 7}
    assert stand([{"id": "state", "own": 1, "position": '{"0": 5, "1023": 7}'}]) == {0: 5, 1023: 7}
    assert len(set(IDS)) == AHEAD + 1
