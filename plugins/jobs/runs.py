"""Runs: one of a job at a time, begun by its schedule or by hand, ended by itself or when told to."""

from __future__ import annotations

import asyncio
import difflib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from broker.amqtt import Services, Undecided
from broker.hooks import JobBusy, NoSuchJob
from plugins.jobs.ledger import CANCELLED, DONE, FAILED, INTERRUPTED, RUNNING, Ledger
from plugins.jobs.work import Failed, Job, Stopped, Work
from plugins.search.service import SearchError
from storage.ending import end
from storage.errors import StorageError

log = logging.getLogger("tideline.jobs")

Ended = Callable[[str, str, int], None]


@dataclass(slots=True)
class _Run:
    by: str
    started: int
    work: Work
    stopped_as: str = INTERRUPTED
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Runs:
    """The jobs and their runs. ``ended`` is called with name, outcome and time (ms) of each run that has ended."""

    def __init__(self, server: Services, jobs: Sequence[Job], ledger: Ledger, share: float, ended: Ended) -> None:
        self._server = server
        self._jobs = {job.name: job for job in jobs}
        self._ledger = ledger
        self._share = share
        self._ended = ended
        self._runs: dict[str, _Run] = {}

    @property
    def names(self) -> list[str]:
        """Every job's name."""
        return list(self._jobs)

    def state(self, name: str) -> dict[str, Any]:
        """A job as people see it. Raises `NoSuchJob`."""
        job, state, run = self._job(name), self._ledger.get(name), self._runs.get(name)
        last = None
        if state.outcome and run is None:
            last = {
                "started": state.started,
                "ended": state.ended or None,
                "outcome": state.outcome,
                "detail": json.loads(state.detail),
            }
        running = None
        if run is not None:
            work = run.work
            running = {
                "started": run.started,
                "by": run.by,
                "what": work.what,
                "done": work.done,
                "total": work.total or None,
                "detail": dict(work.detail),
            }
        return {
            "name": name,
            "about": job.about,
            "schedule": state.schedule,
            "next_run": state.next_run or None,
            "last": last,
            "running": running,
        }

    def start(self, name: str, by: str) -> None:
        """Begin a run. Raises `NoSuchJob` and `JobBusy`."""
        job = self._job(name)
        if name in self._runs:
            raise JobBusy(f"job {name!r} is running already")
        run = self._runs[name] = _Run(by, self._server.wall(), Work(self._share))
        self._ledger.change(name, started=run.started, ended=0, outcome=RUNNING, detail="{}")
        run.task = asyncio.create_task(self._run(job, run), name=f"job {name}")

    def cancel(self, name: str) -> None:
        """Have the run under way end at its next step. Raises `NoSuchJob` and `JobBusy`."""
        self._job(name)
        run = self._runs.get(name)
        if run is None:
            raise JobBusy(f"job {name!r} is not running")
        run.stopped_as = CANCELLED
        run.work.stop()

    async def ended(self, name: str) -> None:
        """Wait for the run under way, if there is one. Raises `NoSuchJob`."""
        self._job(name)
        run = self._runs.get(name)
        if run is not None and run.task is not None:
            await asyncio.wait([run.task])

    async def stop(self, grace: float) -> None:
        """End every run at its next step; one that takes longer than ``grace`` seconds is broken off."""
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for run in self._runs.values():
            run.work.stop()
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
            await end(tasks)

    def _job(self, name: str) -> Job:
        job = self._jobs.get(name)
        if job is None:
            near = difflib.get_close_matches(name, self._jobs, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"there is {', '.join(self._jobs)}"
            raise NoSuchJob(f"no job {name[:40]!r}; {meant}")
        return job

    async def _run(self, job: Job, run: _Run) -> None:
        outcome, began = INTERRUPTED, time.monotonic()
        log.info("job %s: started by %s", job.name, run.by)
        try:
            await job.run(run.work)
            outcome = DONE
        except Stopped:
            outcome = run.stopped_as
        except (Failed, StorageError, Undecided, SearchError) as error:
            outcome, run.work.detail["error"] = FAILED, " ".join(str(error).split())
        except Exception:
            outcome, run.work.detail["error"] = FAILED, "internal error, see the broker's log"
            log.exception("job %s failed", job.name)
        finally:
            del self._runs[job.name]
            now = self._server.wall()
            detail = json.dumps(run.work.detail, ensure_ascii=False)
            self._ledger.change(job.name, ended=now, outcome=outcome, detail=detail)
            level = logging.WARNING if outcome == FAILED else logging.INFO
            log.log(level, "job %s: %s after %.1f s, %s", job.name, outcome, time.monotonic() - began, detail)
            self._ended(job.name, outcome, now)
