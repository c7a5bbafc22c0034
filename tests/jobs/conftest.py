"""``house``: a broker with jobs on each kind of storage, whose jobs a test runs by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from broker.clock import ServerTime
from broker.hooks import JobPlugin
from storage.interface import Storage
from tests.support import mongo_server
from tests.support.broker import Broker, running
from tests.support.until import PATIENCE, until

QUIET = {"schedule": "never"}
LEASE_MS = 200
SPARED = 4 * LEASE_MS / 1000
"""Seconds for which MongoDB spares what is new: a frozen node may be about to be acknowledged for it."""


class House(Broker):
    """A broker, and its jobs."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(broker.server)
        plugin = broker.server.plugin_host.job_plugin
        assert plugin is not None
        self.jobs: JobPlugin = plugin

    @property
    def storage(self) -> Storage:
        return self.server.storage

    async def let_age(self) -> None:
        """Let what is stored be old enough to be removed, where storage spares what is new."""
        if self.storage.cluster is not None:
            asked = monotonic()
            await until(lambda: monotonic() - asked > SPARED, "what was stored is old enough")

    async def run(self, name: str) -> dict[str, Any]:
        """Run a job to its end, which must be a good one; what it tells."""
        if name in ("retention", "inboxes"):
            await self.let_age()
        self.jobs.run(name)
        async with asyncio.timeout(PATIENCE):
            last = (await self.jobs.ended(name))["last"]
        assert last["outcome"] == "done", last
        return dict(last["detail"])


@asynccontextmanager
async def house_at(
    url: str, rules: list[dict[str, Any]], plugins: dict[str, Any], time: ServerTime | None = None, **jobs: Any
) -> AsyncIterator[House]:
    options = {"retention": {**QUIET, "rules": rules}, "inboxes": QUIET, "sessions": QUIET, "index": QUIET, "share": 1.0}
    async with running(url, time=time, plugins={"jobs": {**options, **jobs}, **plugins}) as broker:
        house = House(broker)
        try:
            yield house
        finally:
            await house.close_clients()


MakeHouse = Callable[..., AbstractAsyncContextManager[House]]


DECIDED_BY_THE_JOB = pytest.mark.parametrize(
    "url", ["memory", "sqlite", pytest.param("mongodb", marks=[pytest.mark.slow])], indirect=True
)
"""For a test of what a job does by itself with whatever storage told it: `make test` asks MongoDB about the rest."""


@pytest.fixture(params=["memory", "sqlite", "mongodb"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """An empty database of each kind."""
    if request.param == "memory":
        yield "memory://"
    elif request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/t.db"
    else:
        database = mongo_server.new_database()
        yield mongo_server.url(database, f"tideline_lease_ms={LEASE_MS}")
        await mongo_server.drop(database)


@pytest.fixture
def house(url: str) -> MakeHouse:
    """Makes a broker with these retention rules; more of the jobs' settings, and more plugins, may be given."""

    def make(rules: list[dict[str, Any]] | None = None, plugins: dict[str, Any] | None = None, **jobs: Any) -> Any:
        return house_at(url, rules or [], plugins or {}, **jobs)

    return make
