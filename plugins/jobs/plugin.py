"""The jobs as a plugin: APScheduler's asyncio scheduler says when, `Runs` does it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from broker.amqtt import Services
from broker.hooks import JobBusy, JobPlugin, NoSuchJob
from plugins.http import add_router
from plugins.jobs.config import Inboxes, Index, Retention, Scheduled, Sessions
from plugins.jobs.inboxes import InboxesJob
from plugins.jobs.index import IndexJob
from plugins.jobs.ledger import Ledger, LedgerStore
from plugins.jobs.retention import RetentionJob
from plugins.jobs.routes import make_router
from plugins.jobs.runs import Runs
from plugins.jobs.schedule import NEVER, Schedule
from plugins.jobs.sessions import SessionsJob
from plugins.jobs.work import Job
from plugins.search.service import Search
from plugins.timelines.errors import Away
from storage.ending import end
from storage.errors import StorageError

log = logging.getLogger("tideline.jobs")

SYS = "$SYS/broker/tideline/jobs/"
_LEASE = "work"
"""One node of a cluster runs all jobs; it also keeps a search index that is shared."""
_TURN = 2.0
"""Seconds between two looks at whether it is this node's turn."""
_NOTE = "jobs"
_PROBLEMS: dict[str, type[Exception]] = {"NoSuchJob": NoSuchJob, "JobBusy": JobBusy}
_SAVE = 10.0
"""Seconds that are waited for what became of a run to be durable."""
CATCH_UP = timedelta(seconds=5)
"""How long after the start a run that was missed meanwhile is made up for."""


def add_job(context: Any, job: Job, scheduled: Scheduled) -> None:
    """Have one more job run by a schedule: for another plugin's ``__init__``."""
    context.shared.setdefault("jobs", []).append((job, scheduled))


class JobsPlugin(JobPlugin):
    """Retention, trimming of inboxes, expiry of sessions, and comparison of the search index."""

    @dataclass
    class Config:
        """Settings under ``plugins: jobs:``."""

        retention: Retention = field(default_factory=Retention)
        """Which messages are removed from the conversations: without rules and limits in bytes, none."""
        inboxes: Inboxes = field(default_factory=Inboxes)
        """How much of what every device has acknowledged stays in the inboxes."""
        sessions: Sessions = field(default_factory=Sessions)
        """When sessions whose time has passed are looked for."""
        index: Index = field(default_factory=Index)
        """When the search index is compared with the store."""
        share: float = 0.5
        """The part of the time, 0.01 to 1, that a job may work; it rests for the other, so that publishers get theirs."""

        def __post_init__(self) -> None:
            if not 0.01 <= self.share <= 1:
                raise ValueError(f"share {self.share:g}: must be 0.01 to 1")

    config: Config

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._ledger: Ledger | None = None
        self._runs: Runs | None = None
        self._scheduler: AsyncIOScheduler | None = None
        self._telling: set[asyncio.Task[None]] = set()
        self._waiting: asyncio.Task[None] | None = None
        add_router(context, make_router(self))

    @property
    def _others(self) -> Sequence[tuple[Job, Scheduled]]:
        """Those of other plugins."""
        found: Sequence[tuple[Job, Scheduled]] = self.context.shared.get("jobs", ())
        return found

    # --- life --------------------------------------------------------------------------------------------------------

    async def on_broker_post_start(self) -> None:
        """Take up what is remembered; where clients can connect, begin to run by schedule."""
        server = cast(Services, self.context.server)
        server.answer_nodes(_NOTE, self._answer)
        if await server.may(_LEASE):
            await self._begin()
        else:
            self._waiting = asyncio.create_task(self._wait_for_turn(), name="the turn to run jobs")

    async def _wait_for_turn(self) -> None:
        """Another node runs the jobs; go on when it has ended."""
        server = cast(Services, self.context.server)
        while True:
            await asyncio.sleep(_TURN)
            try:
                if await server.may(_LEASE):
                    await self._begin()
                    return
            except StorageError as error:
                log.debug("who runs the jobs is not known now: %s", error)

    async def _begin(self) -> None:
        server, config = cast(Services, self.context.server), self.config
        ledger = Ledger(server)
        await ledger.load()
        self._ledger = ledger
        jobs: list[Job] = [
            RetentionJob(server, config.retention),
            InboxesJob(server, config.inboxes),
            SessionsJob(server),
            IndexJob(server),
            *(job for job, _ in self._others),
        ]
        self._runs = Runs(server, jobs, self._ledger, config.share, self._tell)
        if server.listening:
            self._begin_schedules(server)
            for name in self._runs.names:
                state = self._ledger.get(name)
                if state.outcome:
                    self._tell(name, state.outcome, state.ended)

    def _begin_schedules(self, server: Services) -> None:
        ledger, config = self._running[1], self.config
        scheduler = self._scheduler = AsyncIOScheduler(jobstores={"default": LedgerStore(self._planned)})
        sections: dict[str, Scheduled] = {"inboxes": config.inboxes, "sessions": config.sessions}
        if config.retention.removes:
            sections["retention"] = config.retention
        if server.plugin(Search) is not None:
            sections["index"] = config.index
        sections |= {job.name: scheduled for job, scheduled in self._others}
        for name in self._running[0].names:
            schedule = Schedule.parse(sections[name].schedule) if name in sections else Schedule(NEVER, None)
            state = ledger.get(name)
            if schedule.trigger is None:
                ledger.change(name, schedule=schedule.text, next_run=0)
                continue
            when = state.next_run if schedule.text == state.schedule else 0
            ledger.change(name, schedule=schedule.text)
            # What was missed while the broker was down is made up for once, however often it was missed.
            again = {"next_run_time": max(_moment(when), datetime.now(UTC) + CATCH_UP)} if when else {}
            scheduler.add_job(
                self._due, schedule.trigger, (name,), id=name, coalesce=True, misfire_grace_time=None, max_instances=1, **again
            )
        scheduler.start()

    async def _due(self, name: str) -> None:
        """A job's time has come."""
        try:
            self._running[0].start(name, "schedule")
        except JobBusy:
            log.info("job %s: its time has come while it runs", name)

    def _planned(self, name: str, when: datetime | None) -> None:
        self._running[1].change(name, next_run=int(when.timestamp() * 1000) if when is not None else 0)

    async def on_broker_pre_shutdown(self) -> None:
        await self._stop()
        if self._ledger is not None:
            await self._ledger.saved(self._patience)

    @property
    def _patience(self) -> float:
        """Seconds that a shutdown waits for a step to end, and again for that to be durable: both fit into a hook's time, and
        into what the whole stop may take."""
        settings = cast(Services, self.context.server).settings
        return min(settings.hooks.timeout, settings.mqtt.shutdown_grace) * 0.4

    async def _stop(self) -> None:
        waiting, self._waiting = self._waiting, None
        await end([waiting])
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            scheduler.shutdown(wait=False)
        if self._runs is not None:
            await self._runs.stop(self._patience)

    async def close(self) -> None:
        """End what runs. May be called twice."""
        await self._stop()
        if self._ledger is not None:
            await self._ledger.close()
        if self._telling:
            await asyncio.gather(*self._telling, return_exceptions=True)

    # --- what people ask -----------------------------------------------------------------------------------------------

    @property
    def _running(self) -> tuple[Runs, Ledger]:
        """Raises `Away` before the broker has started."""
        if self._runs is None or self._ledger is None:
            raise Away("the broker is starting, or another node runs the jobs", retry_after=1)
        return self._runs, self._ledger

    def jobs(self) -> list[dict[str, Any]]:
        """See `broker.hooks.JobPlugin`."""
        runs = self._running[0]
        return [runs.state(name) for name in runs.names]

    def job(self, name: str) -> dict[str, Any]:
        """See `broker.hooks.JobPlugin`."""
        return self._running[0].state(name)

    def run(self, name: str) -> dict[str, Any]:
        """See `broker.hooks.JobPlugin`."""
        self._running[0].start(name, "hand")
        return self.job(name)

    def cancel(self, name: str) -> dict[str, Any]:
        """See `broker.hooks.JobPlugin`."""
        self._running[0].cancel(name)
        return self.job(name)

    async def ended(self, name: str) -> dict[str, Any]:
        """See `broker.hooks.JobPlugin`."""
        runs, ledger = self._running
        await runs.ended(name)
        await ledger.saved(_SAVE)
        return runs.state(name)

    async def anywhere(self, what: str, name: str = "") -> Any:
        """`jobs`, or of one job `job`, `run` or `cancel`, on the node that runs them. Raises what those raise."""
        asked = {"do": what, "job": name}
        found = self._do(asked)
        if found is None:
            answer = await cast(Services, self.context.server).ask_nodes(_NOTE, asked)
            found = None if answer is None else json.loads(answer["json"])
        if found is None:
            raise Away("the broker is starting, or the node that runs the jobs does not answer", retry_after=1)
        if "problem" in found:
            raise _PROBLEMS[found["problem"]](found["text"])
        return found["told"]

    def _answer(self, asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
        found = self._do(asked)
        return None if found is None else {"json": json.dumps(found)}

    def _do(self, asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The same here, where this node runs the jobs: what it told, or a problem."""
        if self._runs is None:
            return None
        do: dict[str, Callable[[], object]] = {
            "jobs": self.jobs,
            "job": lambda: self.job(asked["job"]),
            "run": lambda: self.run(asked["job"]),
            "cancel": lambda: self.cancel(asked["job"]),
        }
        try:
            return {"told": do[asked["do"]]()}
        except (NoSuchJob, JobBusy) as error:
            return {"problem": type(error).__name__, "text": str(error)}

    def _tell(self, name: str, outcome: str, ended: int) -> None:
        """Say on $SYS how a job's last run ended, and when."""
        for part, text in (("outcome", outcome), ("ended", str(ended))):
            task = asyncio.create_task(
                self.context.server.publish(f"{SYS}{name}/{part}", text.encode(), retain=True, durable=False)
            )
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
