"""The jobs over HTTP: for the operator, with the next run, the last, and the one under way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from tests.http.conftest import Site
from tests.http.conftest import passwords as passwords
from tests.http.conftest import sites as sites
from tests.http.conftest import tour as tour

Sites = Callable[..., AbstractAsyncContextManager[Site]]


async def test_the_operator_sees_and_runs_them(tour: Site) -> None:
    http = tour.caller()
    found = (await http.get("/jobs")).json()["jobs"]
    assert [job["name"] for job in found] == ["retention", "inboxes", "sessions", "index"]
    answer = await http.post("/jobs/sessions/run", json={})
    assert answer.status_code == 202
    assert answer.json()["running"]["by"] == "hand"
    plugin = tour.server.plugin_host.job_plugin
    assert plugin is not None
    await plugin.ended("sessions")
    job = (await http.get("/jobs/sessions")).json()
    assert job["running"] is None
    assert job["last"]["outcome"] == "done"
    assert job["next_run"] > job["last"]["ended"]


async def test_what_cannot_be_is_told(tour: Site) -> None:
    http = tour.caller()
    answer = await http.get("/jobs/retentoin")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:tideline:not-found")
    assert "did you mean 'retention'" in answer.json()["detail"]
    answer = await http.delete("/jobs/retention/run")
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:tideline:conflict")
    assert (await http.post("/jobs/retention/run")).status_code == 415
    assert (await http.post("/jobs/retention/run", json={"now": True})).status_code == 422
    tour.server.plugin_host.job_plugin.run("sessions")  # type: ignore[union-attr]
    assert (await http.post("/jobs/sessions/run", json={})).status_code in (202, 409)


async def test_before_the_jobs_are_there_it_says_so(tour: Site) -> None:
    plugin = tour.server.plugin_host.job_plugin
    runs, plugin._runs = plugin._runs, None  # type: ignore[union-attr]
    for method, path in (("GET", "/jobs"), ("GET", "/jobs/index"), ("POST", "/jobs/index/run"), ("DELETE", "/jobs/index/run")):
        answer = await tour.caller().request(method, path, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1"), (method, path)
    plugin._runs = runs  # type: ignore[union-attr]


async def test_users_are_told_no(sites: Sites) -> None:
    async with sites(plugins={"jobs": {}}) as made:
        alice = made.caller("alice")
        for method, path in (
            ("GET", "/jobs"),
            ("GET", "/jobs/index"),
            ("POST", "/jobs/index/run"),
            ("DELETE", "/jobs/index/run"),
        ):
            answer = await alice.request(method, path, headers={"Content-Type": "application/json"})
            assert answer.status_code == 403, (method, path)
        assert (await made.caller().get("/jobs")).status_code == 401


async def test_a_page_of_sync_tells_the_first_kept_entry(tour: Site) -> None:
    http = tour.caller()
    await http.get("/sync", params={"device": "laptop"})
    await http.post("/devices/laptop/subscriptions", json={"filter": "a/#"})
    for number in range(5):
        await http.post("/conversations/a/b/messages", json={"payload": str(number)})
    page = (await http.get("/sync", params={"device": "laptop"})).json()
    assert (page["first"], page["head"]) == (1, 5)
    await tour.server.storage.prune_inbox("c/laptop", 4)
    page = (await http.get("/sync", params={"device": "laptop"})).json()
    assert (page["first"], [e["offset"] for e in page["entries"]]) == (4, [4, 5])


async def test_counts_and_history_are_right_after_retention(tour: Site) -> None:
    http = tour.caller()
    for number in range(6):
        await http.post("/conversations/a/messages", json={"payload": str(number)})
    await http.put("/conversations/a/position", json={"position": 1})
    await tour.server.storage.prune_conversation("a", 5)
    assert (await http.get("/conversations/a/position")).json()["unread"] == 2
    history = (await http.get("/conversations/a/messages", params={"after": 1, "order": "oldest"})).json()
    assert (history["first"], [m["seq"] for m in history["messages"]]) == (5, [5, 6])
