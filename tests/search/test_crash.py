"""SIGKILL at any instant leaves neither hole nor double, in any engine."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from pathlib import Path

import pytest

from plugins.search.engine import Engine, Query
from plugins.search.fts5 import Fts5Engine
from plugins.search.meili import MeiliEngine
from plugins.search.own_files import own_engine
from tests.search.meili_stub import MeiliStub
from tests.search.stores import MadeUpStore, made_up
from tests.search.test_fts5 import check_file
from tests.support.preloaded import ROOT, Preloaded
from tests.support.seeds import seeds

SIZE = 3000
ROUNDS = 6


def _expected(first: int, last: int) -> set[int]:
    return {number for number in range(first, last + 1) if made_up(number).payload != b"\xff\xfe"}


async def _run_and_kill(kind: str, where: str, kept: int, reindex: bool, rng: random.Random | None) -> bool:
    """Start an indexing process and kill it some way on, or wait for its end; whether it came to the end."""
    arguments = (kind, where, str(SIZE), str(kept), "1" if reindex else "0")
    process = Preloaded(arguments, cwd=ROOT, env=os.environ, piped=True, module="tests.search.crash_child")
    assert process.stdout is not None
    lines = rng.randint(1, 8) if rng else 1 << 30
    seen = ""
    with process.stdout:
        while lines and (line := await asyncio.to_thread(process.stdout.readline)):
            seen, lines = line, lines - 1
        if rng:
            await asyncio.sleep(rng.random() * 0.02)  # not a wait: some instant within the work
            process.kill()
        await asyncio.to_thread(process.wait, 90)
    return seen.strip() == "done"


async def _ids(engine: Engine) -> list[int]:
    found: list[int] = []
    for topic in range(7):
        page = await engine.search(Query(conversations=[f"t/{topic}"], limit=100, sort="oldest"))
        found += [hit.id for hit in page.hits]
        while page.next:
            query = Query(conversations=[f"t/{topic}"], limit=100, sort="oldest", cursor=page.next)
            page = await engine.search(query)
            found += [hit.id for hit in page.hits]
    return found


async def _check(engine: Engine, kept: int, *, whole: bool) -> int:
    """Everything up to the position is there once, and what the store still has is never missing; the position."""
    await engine.open()
    position = (await engine.positions()).get(0, 0)
    found = await _ids(engine)
    assert len(found) == len(set(found)), "a double"
    assert await engine.count() == len(found)
    assert _expected(kept, position) <= set(found), "a hole"
    if whole:
        assert position == SIZE
        assert set(found) == _expected(kept, SIZE)
    await engine.close()
    return position


@pytest.mark.parametrize("seed", seeds(1, more=[2]))
async def test_the_embedded_index_survives_kills(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = tmp_path / "search.db"
    kept = 1
    for round in range(ROUNDS):
        await _run_and_kill("embedded", str(path), kept, reindex=round % 3 == 2, rng=rng)
        await _check(Fts5Engine(path), kept, whole=False)
        kept += rng.choice([0, 40])
    assert await _run_and_kill("embedded", str(path), kept, reindex=False, rng=None)
    assert await _check(Fts5Engine(path), kept, whole=True) == SIZE
    check_file(path)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


async def test_the_index_on_tantivy_survives_kills(tmp_path: Path) -> None:
    pytest.importorskip("tantivy")
    rng = random.Random(4)
    path, kept = tmp_path / "search.db", 1

    def engine() -> Engine:
        return own_engine("tantivy", str(path), MadeUpStore(SIZE, kept))

    for round in range(ROUNDS):
        await _run_and_kill("tantivy", str(path), kept, reindex=round % 3 == 2, rng=rng)
        await _check(engine(), kept, whole=False)
        kept += rng.choice([0, 40])
    assert await _run_and_kill("tantivy", str(path), kept, reindex=False, rng=None)
    assert await _check(engine(), kept, whole=True) == SIZE


async def test_meilisearch_is_filled_without_hole_or_double_over_kills(stub: MeiliStub) -> None:
    rng = random.Random(3)
    kept = 1
    for round in range(ROUNDS // 2):
        await _run_and_kill("meilisearch", stub.url, kept, reindex=round % 3 == 2, rng=rng)
        await _check(MeiliEngine(stub.url, stub.key), kept, whole=False)
        kept += rng.choice([0, 40])
    assert await _run_and_kill("meilisearch", stub.url, kept, reindex=True, rng=None)
    assert await _check(MeiliEngine(stub.url, stub.key), kept, whole=True) == SIZE
    assert sorted(stub.indexes) == ["tideline"]
