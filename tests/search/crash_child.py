"""A process that indexes made-up messages until it is killed.

``python -m tests.search.crash_child <engine> <where> <size> <kept> <reindex>`` prints a line after each page, so that
the test can choose its moment.
"""

from __future__ import annotations

import asyncio
import sys

from plugins.search.engine import Engine
from plugins.search.indexer import Indexer
from plugins.search.meili import MeiliEngine
from plugins.search.own_files import own_engine
from plugins.search.reindex import Progress
from tests.search.stores import MadeUpStore
from tests.support.until import until


def _tell(text: str) -> None:
    print(text, flush=True)


async def main(kind: str, where: str, size: int, kept: int, reindex: bool) -> None:
    """Index ``size`` messages of which those below ``kept`` are removed meanwhile, and rebuild if asked to."""
    store = MadeUpStore(size, kept)
    engine: Engine = MeiliEngine(where, "a-secret-key") if kind == "meilisearch" else own_engine(kind, where, store)
    await engine.open()
    _tell("open")
    index = engine.index

    async def told(*arguments: object) -> None:
        await index(*arguments)  # type: ignore[arg-type]
        _tell("page")

    engine.index = told  # type: ignore[method-assign, assignment]
    indexer = Indexer(store, engine, batch=25, gather=0, share=1)
    indexer.start()
    if reindex:

        def report(progress: Progress) -> None:
            _tell("rebuilt")

        await indexer.reindex(report)
        _tell("swapped")
    await indexer.wait_indexed(size, 60)
    await until(lambda: indexer._reconcile_after is None)
    await indexer.stop()
    await engine.close()
    _tell("done")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "1"))
