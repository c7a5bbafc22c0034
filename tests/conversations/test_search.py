"""Search finds for a member what it sees of its conversations, and for others nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx

from tests.conversations.conftest import BOB, EVE, group, say
from tests.http.conftest import Site


async def test_each_finds_what_it_sees(sites: Callable[..., AbstractAsyncContextManager[Site]], tmp_path: Path) -> None:
    plugins: dict[str, Any] = {"conversations": {}, "search": {"path": str(tmp_path / "search.db"), "gather": 0.0}}
    async with sites(plugins=plugins) as made:
        alice, bob, eve = (made.caller(name) for name in ("alice", "bob", "eve"))
        topic = await group(alice, BOB, history="joining")
        await say(alice, topic, "treasure before")
        open_ = (await say(alice, "chat/open", "treasure outside")).json()["topic"]

        async def found(caller: httpx.AsyncClient, **params: Any) -> list[str]:
            answer = await caller.get("/search", params={"q": "treasure", "sort": "oldest", **params})
            assert answer.status_code == 200, answer.text
            return [hit["payload"] for hit in answer.json()["hits"]]

        await alice.put(f"/conversations/{topic}/members/{EVE}", json={})
        last = (await say(alice, topic, "treasure after")).json()["id"]
        assert await found(alice, wait_indexed=last, wait=60) == ["treasure before", "treasure outside", "treasure after"]
        assert await found(bob) == ["treasure before", "treasure after"]
        assert await found(eve) == ["treasure after"]
        assert await found(eve, conversation=topic) == ["treasure after"]
        assert await found(eve, conversation=open_) == []
        assert (await alice.delete(f"/conversations/{topic}/members/{EVE}")).status_code == 204
        assert await found(eve) == await found(eve, conversation=topic) == []
