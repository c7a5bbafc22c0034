"""The index as its operator sees it over HTTP, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from plugins.search.service import Search
from tests.http.conftest import Site, site
from tests.support.until import until

Sites = Callable[..., AbstractAsyncContextManager[Site]]
CALLS = [("GET", "/search/index"), ("POST", "/search/reindex"), ("DELETE", "/search/reindex")]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_lag_and_rebuild(tmp_path: Path, store: str) -> None:
    url = "memory://" if store == "memory" else f"sqlite:///{tmp_path}/t.db"
    async with site(
        url, plugins={"search": {"path": str(tmp_path / "search.db"), "gather": 0.0}, "sys": {"interval": 0.05}}
    ) as made:
        http = made.caller()
        posted = [(await http.post("/conversations/a/messages", json={"payload": f"common {n}"})).json() for n in range(20)]
        found = await http.get("/search", params={"q": "common ", "wait_indexed": posted[-1]["id"], "wait": 60})
        assert found.json()["total"] == 20
        retained = made.server.retained
        lag = "$SYS/broker/tideline/search/lag/"
        await until(lambda: getattr(retained.get(lag + "messages"), "payload", b"") == b"0")
        assert getattr(retained.get(lag + "milliseconds"), "payload", b"") == b"0"
        state = (await http.get("/search/index")).json()
        assert state == {
            "lag_messages": 0,
            "lag_milliseconds": 0,
            "position": posted[-1]["id"],
            "errors": 0,
            "rebuild": None,
        }
        assert (await http.delete("/search/reindex")).status_code == 404
        begun = await http.post("/search/reindex", json={})
        assert begun.status_code == 202
        assert begun.json()["state"] == "running"
        while (rebuild := (await http.get("/search/index")).json()["rebuild"])["state"] == "running":
            pass
        assert (rebuild["state"], rebuild["messages"], rebuild["fraction"], rebuild["error"]) == ("done", 20, 1.0, None)
        assert (await http.get("/search", params={"q": "common "})).json()["total"] == 20


EMOJI = "⭐⏰⌚⌛⏳⏩⏸▶◀⬛⬜⬆⬇⭕↩⤴‼⁉〰©✅➡❤👍😀🚀"


async def test_each_emoji_finds_its_message(tmp_path: Path) -> None:
    async with site("memory://", plugins={"search": {"path": str(tmp_path / "search.db"), "gather": 0.0}}) as made:
        http = made.caller()
        last = ""
        for number, emoji in enumerate(EMOJI):
            sent = await http.post("/conversations/a/messages", json={"payload": f"note {emoji} number {number}"})
            last = sent.json()["id"]
        totals = {}
        for emoji in EMOJI:
            totals[emoji] = (await http.get("/search", params={"q": emoji, "wait_indexed": last, "wait": 60})).json()["total"]
        assert totals == dict.fromkeys(EMOJI, 1)


async def test_it_is_for_the_operator(sites: Sites, tmp_path: Path) -> None:
    async with sites(plugins={"search": {"path": str(tmp_path / "search.db")}}) as made:
        for method, path in CALLS:
            options: dict[str, Any] = {"json": {}} if method == "POST" else {}
            assert (await made.caller().request(method, path, **options)).status_code == 401
            assert (await made.caller("alice").request(method, path, **options)).status_code == 403


async def test_without_the_plugin_it_is_away(tour: Site) -> None:
    for method, path in CALLS:
        options: dict[str, Any] = {"json": {}} if method == "POST" else {}
        assert (await tour.caller().request(method, path, **options)).status_code == 503


async def _failed(made: Site) -> None:
    search = made.server.api.plugin(Search)
    assert search is not None
    await until(lambda: search.failures() > 0)


async def test_where_the_search_server_is_only_the_operator_is_told(sites: Sites, tmp_path: Path) -> None:
    plugins = {"search": {"engine": "meilisearch", "url": "http://127.0.0.1:9"}}
    async with sites(plugins=plugins) as made:
        await _failed(made)
        answer = await made.caller("alice").get("/search", params={"q": "x"})
        assert (answer.status_code, answer.json()["detail"]) == (503, "search cannot answer now")
    async with site("memory://", plugins=plugins) as made:
        await _failed(made)
        answer = await made.caller().get("/search", params={"q": "x"})
        assert "no Meilisearch server answers at http://127.0.0.1:9: start it" in answer.json()["detail"]
