"""What is scheduled by who is shut out meanwhile, and what the metrics tell of what is scheduled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from plugins.schedules import SchedulesPlugin
from plugins.schedules.entry import DUE, before
from plugins.schedules.runner import Runner
from storage.records import PutRow
from tests.accounts.test_users import ACCOUNTS, CHEAP, users_of
from tests.http.conftest import Site
from tests.metrics.test_metrics import scrape, values
from tests.schedules.test_schedules import broker
from tests.support.clocks import Clocks
from tests.support.until import until

RESULTS = ("published", "skipped", "denied", "refused")


def runner(made: Site) -> Runner:
    plugin = made.server.api.plugin(SchedulesPlugin)
    assert plugin is not None
    return plugin.service.runner


async def held(caller: httpx.AsyncClient) -> list[bool]:
    """Of ann's, in the order of their topics."""
    found = (await caller.get("/schedules", params={"user": "u/ann"})).json()["schedules"]
    return [one["held"] for one in sorted(found, key=lambda one: str(one["topic"]))]


async def test_who_is_disabled_or_deleted_publishes_nothing_until_let_in_again(tmp_path: Path) -> None:
    clocks, secret = Clocks(), tmp_path / "operator.secret"
    plugins: dict[str, Any] = {**ACCOUNTS, "http": {"bind": "127.0.0.1:0", "operator_file": str(tmp_path / "operator.json")}}
    async with broker(plugins=plugins, time=clocks.time) as made:
        operator = made.caller(headers={"Authorization": f"Bearer {secret.read_text().strip()}"})
        users = users_of(made)
        for name in ("ann", "bob"):
            await users.add(name, CHEAP.hash(name))
        reader = await made.client("reader", username="bob", password=b"bob")
        await reader.subscribe("#", options=1)
        ann = await made.client("phone", username="ann", password=b"ann")
        for minute in range(1, 6):
            await ann.publish(f"$delayed/{minute * 60}/{minute}", b"x")
        assert await held(operator) == [False] * 5
        await users.change("ann", disabled=True)
        assert await held(operator) == [True] * 5
        clocks.pass_by(60)
        await until(lambda: runner(made).denied == 1, "the first one was due")
        await users.change("ann", disabled=False)
        assert await held(operator) == [False] * 4
        clocks.pass_by(60)
        assert (await reader.message()).topic == "2"
        await users.delete("ann")
        assert await held(operator) == [True] * 3
        clocks.pass_by(60)
        await until(lambda: runner(made).denied == 2, "the third one was due")
        await users.add("ann", CHEAP.hash("new"))
        clocks.pass_by(60)
        assert (await reader.message()).topic == "4"
        assert await held(operator) == [False]
        mine = {"topic": "of-operator", "payload": "x", "delay": 60}
        await operator.post("/schedules", json=mine, params={"user": "u/nobody"})
        assert (await operator.get("/schedules", params={"user": "u/nobody"})).json()["schedules"][0]["held"] is False
        clocks.pass_by(60)
        assert {message.topic for message in await reader.messages(2)} == {"5", "of-operator"}


async def test_what_is_of_anonymous_clients_is_held_once_none_comes_in_any_more(tmp_path: Path) -> None:
    clocks, secret = Clocks(), tmp_path / "operator.secret"
    plugins: dict[str, Any] = {**ACCOUNTS, "http": {"bind": "127.0.0.1:0", "operator_file": str(tmp_path / "operator.json")}}
    async with broker(plugins=plugins, time=clocks.time) as made:
        operator = made.caller(headers={"Authorization": f"Bearer {secret.read_text().strip()}"})
        stranger = await made.client("stranger")
        for minute in (1, 2):
            await stranger.publish(f"$delayed/{minute * 60}/{minute}", b"x")
        free = {"topic": "of-operator", "payload": "x", "delay": 60}
        assert (await operator.post("/schedules", json=free, params={"user": "c/stranger"})).status_code == 201

        async def strangers() -> dict[str, bool]:
            found = (await operator.get("/schedules", params={"user": "c/stranger"})).json()["schedules"]
            return {one["topic"]: one["held"] for one in found}

        assert await strangers() == {"1": False, "2": False, "of-operator": False}
        await users_of(made).add("bob", CHEAP.hash("bob"))
        assert await strangers() == {"1": True, "2": True, "of-operator": False}
        reader = await made.client("reader", username="bob", password=b"bob")
        await reader.subscribe("#", options=1)
        clocks.pass_by(60)
        assert (await reader.message()).topic == "of-operator"
        await until(lambda: runner(made).denied == 1, "the first one was due")
        clocks.pass_by(60)
        await until(lambda: runner(made).denied == 2, "the second one was due")
        await reader.quiet()


async def test_the_metrics_tell_how_many_wait_and_what_became_of_the_others() -> None:
    """Too late after downtime, unreadable, and half a minute late."""
    clocks = Clocks()
    async with broker(plugins={"schedules": {"skip_older_than": "1h"}}, time=clocks.time, errors=True) as made:
        writer = await made.client("writer")
        for delay in (0, 3600, 10000):
            await writer.publish(f"$delayed/{delay}/a", b"x")
        await until(lambda: runner(made).published == 1)

        async def told() -> dict[str, float]:
            return values((await scrape(made.url)).text)

        async def waiting() -> bool:
            return (await told()).get("tideline_schedules_pending") == 2

        await until(waiting, "those that wait are counted")
        clocks.pass_by(8000)
        await until(lambda: runner(made).skipped == 1)
        broken = PutRow(DUE, "steady", f"{before(made.server.api.now())}.broken", b"nonsense")
        await made.server.api.commit([broken], 10.0)
        await until(lambda: runner(made).refused == 1)
        clocks.pass_by(2030)
        await until(lambda: runner(made).published == 2)
        found = await told()
        results = {result: found[f'tideline_schedules_total{{result="{result}"}}'] for result in RESULTS}
        assert results == {"published": 2, "skipped": 1, "denied": 0, "refused": 1}
        late = [found[f'tideline_schedule_late_seconds_bucket{{le="{bound}"}}'] for bound in ("10.0", "60.0", "+Inf")]
        assert (late, found["tideline_schedule_late_seconds_sum"]) == ([1, 2, 2], 30)
