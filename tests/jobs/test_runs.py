"""Runs and what is remembered of them: one at a time, ended at a step, saved when storage works, made up for when missed."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.hooks import JobBusy, NoSuchJob
from plugins.jobs import plugin as plugin_module
from plugins.jobs.work import Stopped, Work
from storage.factory import open_url
from storage.interface import Jobs
from storage.records import JobState, SaveJob
from tests.jobs.conftest import QUIET, MakeHouse, house_at
from tests.jobs.test_retention import fill, reader
from tests.support.until import until

NOW = int(time.time() * 1000)


async def test_a_job_runs_once_at_a_time(house: MakeHouse) -> None:
    async with house() as made:
        assert [job["name"] for job in made.jobs.jobs()] == ["retention", "inboxes", "sessions", "index"]
        begun = made.jobs.run("sessions")
        assert begun["running"]["by"] == "hand"
        with pytest.raises(JobBusy, match="running already"):
            made.jobs.run("sessions")
        last = (await made.jobs.ended("sessions"))["last"]
        assert (last["outcome"], last["detail"]) == ("done", {"sessions": 0, "expired": 0})
        with pytest.raises(JobBusy, match="not running"):
            made.jobs.cancel("sessions")
        with pytest.raises(NoSuchJob, match="did you mean 'sessions'"):
            made.jobs.run("session")


async def test_a_job_that_cannot_be_done_says_why(house: MakeHouse) -> None:
    async with house() as made:
        made.jobs.run("index")
        last = (await made.jobs.ended("index"))["last"]
        assert last["outcome"] == "failed"
        assert "search plugin is not configured" in last["detail"]["error"]


@pytest.mark.inside
async def test_a_session_whose_time_passed_while_the_clock_did_not_see_it_ends(
    house: MakeHouse,
) -> None:
    async with house() as made:
        phone = await made.client("phone", 5, clean=False, expiry=60)
        await made.lose(phone, "phone")
        await made.lose(await made.durable("tablet", 5), "tablet")
        assert await made.run("sessions") == {"sessions": 2, "expired": 0}
        made.server.time.not_before(made.server.time.now() + 61_000)
        assert await made.run("sessions") == {"sessions": 2, "expired": 1}
        await until(lambda: made.server.pipeline.pending == 0)
        await made.server.api.commit([], 60.0)
        assert [device.key.client_id async for device in made.storage.devices()] == ["tablet"]
        assert made.server.counters.clients_expired == 1


async def test_how_it_ended_is_told_on_sys(house: MakeHouse) -> None:
    async with house() as made:
        await made.run("sessions")
        client = await made.client("watcher")
        await client.subscribe("$SYS/broker/tideline/jobs/+/outcome")
        assert (await client.message()).payload == b"done"


async def test_pacing_leaves_others_their_time_and_ends_where_it_is_told_to() -> None:
    work = Work(share=0.25)
    await asyncio.sleep(0)
    worked = time.monotonic()
    while time.monotonic() - worked < 0.02:
        pass
    before = time.monotonic()
    await work.pause()
    assert time.monotonic() - before >= 0.05
    work.stop()
    with pytest.raises(Stopped):
        await work.pause()
    with pytest.raises(Stopped):
        await work.until(asyncio.sleep(10))  # not a wait: work that would take long


async def test_a_state_is_saved_once_storage_is_back(tmp_path: Path) -> None:
    async with house_at(f"sqlite:///{tmp_path}/t.db", [], {}, sessions=QUIET) as made:
        async with made.held() as commits:
            made.jobs.run("sessions")
            await commits.arrived()  # it may say that the run has begun
            last = await until(lambda: made.jobs.job("sessions")["last"], "the run ends: it waits for no commit")
            assert last["outcome"] == "done"
        await made.jobs.ended("sessions")
        assert isinstance(made.storage, Jobs)
        saved = {state.name: state for state in await made.storage.jobs()}
        assert saved["sessions"].outcome == "done"


# --- schedules over restarts -------------------------------------------------------------------------------------------


async def prepared(path: Path, *states: JobState) -> str:
    url = f"sqlite:///{path}/t.db"
    storage = open_url(url)
    await storage.open()
    await storage.commit([SaveJob(state) for state in states])
    await storage.close()
    return url


async def test_the_next_run_is_kept_over_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    schedules: dict[str, Any] = {"sessions": {"schedule": "6h"}, "inboxes": {"schedule": "0 4 * * *", "keep": 5}}
    async with house_at(url, [], {}, **schedules) as made:
        planned = {job["name"]: job["next_run"] for job in made.jobs.jobs()}
    assert planned["retention"] is None, "without rules and limits in bytes nothing is scheduled"
    assert abs(planned["sessions"] - time.time() * 1000 - 6 * 3_600_000) < 600_000
    assert 0 < planned["inboxes"] - NOW <= 25 * 3_600_000
    async with house_at(url, [], {}, **schedules) as made:
        assert {job["name"]: job["next_run"] for job in made.jobs.jobs()} == planned
    schedules["sessions"] = {"schedule": "1h"}
    async with house_at(url, [], {}, **schedules) as made:
        again = {job["name"]: job["next_run"] for job in made.jobs.jobs()}
        assert again["inboxes"] == planned["inboxes"]
        assert abs(again["sessions"] - time.time() * 1000 - 3_600_000) < 600_000, "a new schedule is reckoned anew"


@pytest.mark.parametrize("limit", [{"keep_free": "0%"}, {"max_bytes": "1 GiB"}])
async def test_retention_by_bytes_alone_has_its_schedule(limit: dict[str, str]) -> None:
    async with house_at("memory://", [], {}, retention={"schedule": "6h", **limit}) as made:
        job = made.jobs.job("retention")
    assert job["schedule"] == "6h"
    assert abs(job["next_run"] - time.time() * 1000 - 6 * 3_600_000) < 600_000


async def test_what_was_missed_is_made_up_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_module, "CATCH_UP", timedelta(milliseconds=50))
    long_ago = NOW - 400 * 86_400_000
    url = await prepared(tmp_path, JobState("sessions", "1h", long_ago, long_ago - 5, long_ago - 4, "done"))
    runs: list[str] = []
    async with house_at(url, [], {}, sessions={"schedule": "1h"}) as made:
        start = made.jobs._runs.start

        def started(name: str, by: str) -> Any:
            runs.append(by)
            return start(name, by)

        made.jobs._runs.start = started
        await until(lambda: (made.jobs.job("sessions")["last"] or {"started": 0})["started"] > NOW - 60_000)
        job = await made.jobs.ended("sessions")
        assert runs == ["schedule"]
        assert abs(job["next_run"] - time.time() * 1000 - 3_600_000) < 600_000
        assert isinstance(made.storage, Jobs)
        assert (await made.storage.jobs())[-1].next_run == job["next_run"]


async def test_a_run_that_the_broker_did_not_survive_was_interrupted(tmp_path: Path) -> None:
    url = await prepared(tmp_path, JobState("retention", "1h", NOW, NOW, 0, "running"))
    async with house_at(url, [], {}) as made:
        last = made.jobs.job("retention")["last"]
        assert (last["outcome"], last["started"], last["ended"]) == ("interrupted", NOW, None)


async def test_a_stop_ends_a_run_at_its_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    caplog.set_level(logging.INFO, "tideline.jobs")
    async with house_at(url, [{"filter": "#", "max_messages": 1}], {}) as made:
        await fill(made, "a", 3)
        prune = made.storage.prune_conversation
        begun = asyncio.Event()

        async def slow(topic: str, before: int, limit: int = 1000, now: int = 0) -> int:
            begun.set()
            await asyncio.sleep(0.05)  # not a wait: a slow step
            return await prune(topic, before, limit, now)

        made.storage.prune_conversation = slow  # type: ignore[method-assign, assignment]
        made.jobs.run("retention")
        await begun.wait()
    assert "job retention: interrupted" in caplog.text
    async with house_at(url, [], {}) as made:
        assert made.jobs.job("retention")["last"]["outcome"] == "interrupted"
        assert await made.storage.conversation_bounds("a") == (3, 3)


async def test_how_far_an_inbox_is_acknowledged(house: MakeHouse) -> None:
    async with house() as made:
        phone = await reader(made, "phone", "a/#")
        await fill(made, "a/b", 3)
        await phone.messages(3)
        await made.lose(phone, "phone")
        view = made.server.api
        await view.save_offsets(5.0)
        assert await view.lowest_offset("c/phone") == 3
        assert await view.lowest_offset("c/nobody") is None
        assert [page async for page in made.storage.lowest_offsets()] == [[("c/phone", 3)]]
