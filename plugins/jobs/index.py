"""Comparing the search index with the store, and repairing it in both directions: see `plugins.search.compare`."""

from __future__ import annotations

from dataclasses import asdict

from broker.amqtt import Services
from plugins.jobs.work import Failed, Work
from plugins.search.service import Differences, Search


class IndexJob:
    """See the module."""

    name = "index"
    about = "compares the search index with the store and repairs it"

    def __init__(self, server: Services) -> None:
        self._server = server

    async def run(self, work: Work) -> None:
        """Compare, at the indexer's pace."""
        search = self._server.plugin(Search)
        if search is None:
            raise Failed("there is no search index: the search plugin is not configured")
        work.what = "comparing messages"
        work.total = await search.count()
        work.detail |= asdict(Differences())

        def report(found: Differences) -> None:
            work.detail |= asdict(found)
            work.done = found.messages
            work.total = max(work.total, work.done)

        report(await work.until(search.compare(report)))
