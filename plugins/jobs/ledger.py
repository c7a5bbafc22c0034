"""What is remembered of the jobs, in memory and, through the broker's commits, in storage; and APScheduler's job store over it.

A state that changed is saved by the next commit that works. While storage is away nothing waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from apscheduler.jobstores.memory import MemoryJobStore

from broker.amqtt import Services, Undecided
from storage.ending import end
from storage.errors import StorageError
from storage.records import JobState, SaveJob

log = logging.getLogger("tideline.jobs")

RUNNING, DONE, FAILED, CANCELLED, INTERRUPTED = "running", "done", "failed", "cancelled", "interrupted"
_TIMEOUT = 10.0
_AGAIN = 2.0


class Ledger:
    """The state of every job."""

    def __init__(self, server: Services) -> None:
        self._server = server
        self._states: dict[str, JobState] = {}
        self._unsaved: set[str] = set()
        self._saver: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Take up what storage remembers. A run that was under way when the broker ended was interrupted."""
        for state in await self._server.storage.jobs():
            self._states[state.name] = state
            if state.outcome == RUNNING:
                self.change(state.name, outcome=INTERRUPTED)

    def get(self, name: str) -> JobState:
        """What is known of a job."""
        return self._states.get(name, JobState(name))

    def change(self, name: str, **fields: Any) -> None:
        """Remember this from now on."""
        changed = self.get(name)._replace(**fields)
        if changed != self._states.get(name):
            self._states[name] = changed
            self._unsaved.add(name)
            if self._saver is None or self._saver.done():
                self._saver = asyncio.create_task(self._save(), name="job states")

    async def saved(self, timeout: float) -> None:
        """Wait until everything is durable, for ``timeout`` seconds at most."""
        if self._saver is not None:
            await asyncio.wait([self._saver], timeout=timeout)

    async def close(self) -> None:
        """Save nothing any more. What was not saved is as it was before; a run is found to have been interrupted."""
        await end([self._saver])

    async def _save(self) -> None:
        while self._unsaved:
            names, self._unsaved = self._unsaved, set()
            try:
                await self._server.commit([SaveJob(self._states[name]) for name in sorted(names)], _TIMEOUT)
            except (StorageError, Undecided) as error:
                log.debug("the state of jobs is not saved yet: %s", error)
                self._unsaved |= names
                await asyncio.sleep(_AGAIN)


class LedgerStore(MemoryJobStore):
    """APScheduler's job store: its jobs in memory, and the ledger told of every next run."""

    def __init__(self, planned: Callable[[str, datetime | None], None]) -> None:
        super().__init__()
        self._planned = planned

    def add_job(self, job: Any) -> None:
        super().add_job(job)
        self._planned(job.id, job.next_run_time)

    def update_job(self, job: Any) -> None:
        super().update_job(job)
        self._planned(job.id, job.next_run_time)
