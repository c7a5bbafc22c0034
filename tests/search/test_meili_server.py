"""A real Meilisearch server is killed while it indexes: nothing is lost, and nothing is there twice.

Only where TIDELINE_TEST_MEILISEARCH_BINARY names one; it runs on loopback, on a folder of the test's own.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from pathlib import Path

import pytest

from bench.peers.base import free_port
from bench.search_meilisearch import begin
from plugins.search.engine import Engine
from plugins.search.indexer import Indexer
from plugins.search.meili import MeiliEngine
from tests.search.stores import TOPICS, MadeUpStore, made_up
from tests.support.seeds import seeds
from tests.support.until import until

BINARY = "TIDELINE_TEST_MEILISEARCH_BINARY"
SIZE = 4000
"""Up to 4095, ids are of one writer."""
KILLS = 3
_LONG = 300.0


@pytest.mark.skipif(not os.environ.get(BINARY), reason=f"{BINARY} names no server")
@pytest.mark.parametrize("seed", seeds(1, more=[2, 3]))
async def test_a_server_that_is_killed_while_it_indexes_loses_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    binary, url, key = os.environ[BINARY], f"http://127.0.0.1:{free_port()}", secrets.token_hex(16)
    process = await asyncio.to_thread(begin, binary, tmp_path, url, key)
    engine = MeiliEngine(url, key)
    indexer = Indexer(MadeUpStore(SIZE), engine, batch=100, gather=0, share=1, opened=False)
    try:
        indexer.start()
        for kill in range(1, KILLS + 1):
            await until(lambda wanted=kill * SIZE // (KILLS + 2): indexer.positions.get(0, 0) >= wanted, "progress", _LONG)  # type: ignore[misc]
            await asyncio.sleep(rng.random() * 0.3)  # not a wait: some instant within the work
            process.kill()
            await asyncio.to_thread(process.wait)
            claimed = indexer.positions.get(0, 0)
            process = await asyncio.to_thread(begin, binary, tmp_path, url, key)
            assert _expected(claimed) <= set(await _ids(engine)), "what was said to be searchable is lost"
        assert await indexer.wait_indexed(SIZE, _LONG)
        found = await _ids(engine)
        assert len(found) == len(set(found)), "a double"
        assert set(found) == _expected(SIZE)
        assert await engine.count() == len(found)
        assert await engine.positions() == {0: SIZE}
    finally:
        await indexer.stop()
        await engine.close()
        process.kill()
        await asyncio.to_thread(process.wait)


def _expected(last: int) -> set[int]:
    return {number for number in range(1, last + 1) if made_up(number).payload != b"\xff\xfe"}


async def _ids(engine: Engine) -> list[int]:
    found: list[int] = []
    for topic in range(TOPICS):
        found += await engine.held(f"t/{topic}", 1, SIZE, SIZE)
    return found
