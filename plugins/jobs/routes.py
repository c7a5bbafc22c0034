"""Routes: the jobs, for the operator."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Path
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from broker.hooks import JobBusy, NoSuchJob
from plugins.http.api import Caller, responses
from plugins.http.models import Body, Milliseconds
from plugins.http.rendering import reply, tagged
from plugins.timelines import Conflict, Forbidden, NotFound, Who

NAMES = ("retention", "inboxes", "sessions", "index")

Name = Annotated[str, Path(max_length=64, json_schema_extra={"enum": list(NAMES)})]


class RunBody(Body):
    """Nothing has to be said."""


class LastRun(BaseModel):
    """``outcome`` is done, failed, cancelled or interrupted; ``ended`` is null where the broker was killed meanwhile."""

    started: Milliseconds
    ended: Milliseconds | None
    outcome: str
    detail: dict[str, Any]


class RunUnderWay(BaseModel):
    """``by`` is schedule or hand. ``total`` is null where it is not known, and may rise."""

    started: Milliseconds
    by: str
    what: str
    done: int
    total: int | None
    detail: dict[str, Any]


class Job(BaseModel):
    """``next_run`` is null where nothing is scheduled."""

    name: str
    about: str
    schedule: str
    next_run: Milliseconds | None
    last: LastRun | None
    running: RunUnderWay | None


class JobList(BaseModel):
    jobs: list[Job]


class Jobs(Protocol):
    """The plugin; see there."""

    async def anywhere(self, what: str, name: str = "") -> Any: ...


def make_router(plugin: Jobs) -> APIRouter:
    """The routes over a plugin."""
    router = APIRouter(tags=["jobs"])

    @router.get("/jobs", response_model=JobList, responses=responses())
    async def list_jobs(request: Request, who: Caller) -> Response:
        """Every job: its last run, its next run, and how far it is while it runs. For the operator."""
        _operator(who)
        return tagged(request, {"jobs": await plugin.anywhere("jobs")})

    @router.get("/jobs/{name}", response_model=Job, responses=responses())
    async def read_job(request: Request, name: Name, who: Caller) -> Response:
        """One job. For the operator."""
        _operator(who)
        try:
            return tagged(request, await plugin.anywhere("job", name))
        except NoSuchJob as error:
            raise NotFound(str(error)) from error

    @router.post("/jobs/{name}/run", response_model=Job, status_code=202, responses=responses())
    async def run_job(name: Name, who: Caller, body: RunBody | None = None) -> Response:
        """Begin a run now; it goes on after this answer. 409 while one is under way. For the operator."""
        _operator(who)
        try:
            return reply(await plugin.anywhere("run", name), 202)
        except NoSuchJob as error:
            raise NotFound(str(error)) from error
        except JobBusy as error:
            raise Conflict(str(error)) from error

    @router.delete("/jobs/{name}/run", response_model=Job, status_code=202, responses=responses())
    async def cancel_job(name: Name, who: Caller) -> Response:
        """End the run under way at its next step: nothing is left half done. 409 where none is. For the operator."""
        _operator(who)
        try:
            return reply(await plugin.anywhere("cancel", name), 202)
        except NoSuchJob as error:
            raise NotFound(str(error)) from error
        except JobBusy as error:
            raise Conflict(str(error)) from error

    return router


def _operator(who: Who) -> None:
    if not who.operator:
        raise Forbidden(f"jobs are the operator's: you are {who.user!r}")
