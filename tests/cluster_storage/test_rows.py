"""Rows that several nodes write: of two that expect the same revision one is first, and the other is told."""

from __future__ import annotations

import asyncio

from storage.errors import RowChanged
from storage.records import PutRow
from tests.cluster_storage.backends import ClusterBackend


async def test_of_nodes_that_write_one_row_at_once_exactly_one_is_first(cluster: ClusterBackend) -> None:
    nodes = [await cluster.node() for _ in range(3)]
    revision = 0
    for turn in range(5):
        puts = [PutRow("t", "p", "a", b"%d %d" % (turn, n), expected=revision) for n in range(3)]
        await asyncio.gather(*(node.commit([put]) for node, put in zip(nodes, puts, strict=True)))
        first = [put for put in puts if put.error is None]
        assert len(first) == 1
        assert all(isinstance(put.error, RowChanged) for put in puts if put is not first[0])
        found = await nodes[turn % 3].row("t", "p", "a")
        assert found is not None
        assert (found.value, found.revision) == (first[0].value, first[0].revision)
        assert found.revision > revision
        revision = found.revision


async def test_nodes_that_expect_nothing_each_write_once(cluster: ClusterBackend) -> None:
    nodes = [await cluster.node() for _ in range(3)]
    puts = [[PutRow("t", "p", key, b"%d" % n) for key in "ab"] for n in range(3)]
    await asyncio.gather(*(node.commit(group) for node, group in zip(nodes, puts, strict=True)))
    for key, group in zip("ab", zip(*puts, strict=True), strict=True):
        assert len({put.revision for put in group}) == 3
        last = max(group, key=lambda put: put.revision)
        found = await nodes[0].row("t", "p", key)
        assert found is not None
        assert (found.value, found.revision) == (last.value, last.revision)
