"""Over SIGKILL at any step of a commit: an edit, a reaction, a recall and an attachment's message are made, or are not.

SQLite has one transaction, so there is a step before it and one after. On MongoDB each write is a step: the broker is killed as
the server is about to get it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.attachments.parts import published, whole
from tests.recall.conftest import TOPIC
from tests.support import mongo_server
from tests.support.broker import ANONYMOUS
from tests.support.laws_process import BrokerProcess, free_port
from tests.support.mongo_proxy import LOSABLE, WRITES, Command, MongoProxy
from tests.support.storages import storage_url
from tests.support.until import until

HEART = quote("❤️")
ANN, BOB = {"user": "c/ann"}, {"user": "c/bob"}
NOBODY = {"tests.support.laws_auth.NameIsPassword": False, "tests.support.laws_auth.ForbiddenTopics": False}
MOST_STEPS = 20
Http = httpx.AsyncClient
Act = Callable[[Http, str], Awaitable[httpx.Response]]


async def edit(http: Http, id: str) -> httpx.Response:
    return await http.post(f"/messages/{id}/versions", json={"payload": "new"}, params=ANN)


async def edit_by_name(http: Http, id: str) -> httpx.Response:
    body = {"topic": TOPIC, "payload": "new", "properties": [["tideline-edits", id]], "message_id": f"edits {id}"}
    return await http.post("/messages", json=body, params=ANN)


async def react(http: Http, id: str) -> httpx.Response:
    return await http.put(f"/messages/{id}/reactions/{HEART}", json={}, params=BOB)


async def react_back(http: Http, id: str) -> httpx.Response:
    return await http.delete(f"/messages/{id}/reactions/{HEART}", params=BOB)


async def recall(http: Http, id: str) -> httpx.Response:
    return await http.post(f"/messages/{id}/recall", json={}, params=ANN)


async def shown(http: Http, id: str) -> Any:
    """A message as the history has it; who reacted must be as many as were counted."""
    page = (await http.get(f"/conversations/{TOPIC}/messages", params={"order": "oldest", "limit": 100})).json()["messages"]
    message = next(message for message in page if message["id"] == id)
    given = (await http.get(f"/messages/{id}/reactions")).json()["reactions"]
    assert sum(message.get("reactions", {}).values()) == len(given)
    return message


async def is_edited(http: Http, id: str) -> bool:
    message = await shown(http, id)
    assert (message["payload"] == "new") == (message["versions"] > 1)
    return bool(message["payload"] == "new")


async def is_edited_once(http: Http, id: str) -> bool:
    assert (await shown(http, id))["versions"] <= 2
    return await is_edited(http, id)


async def has_reaction(http: Http, id: str) -> bool:
    return bool((await shown(http, id))["reactions"])


async def has_none(http: Http, id: str) -> bool:
    return not await has_reaction(http, id)


async def is_recalled(http: Http, id: str) -> bool:
    message = await shown(http, id)
    assert bool(message["recalled"]) == (message["payload"] == "")
    assert not (message["recalled"] and (await http.get(f"/messages/{id}/reactions")).json()["reactions"])
    return bool(message["recalled"])


SAYS: dict[str, tuple[Act, Callable[[Http, str], Awaitable[bool]]]] = {
    "edit": (edit, is_edited),
    "edit-by-name": (edit_by_name, is_edited_once),
    "react": (react, has_reaction),
    "react-back": (react_back, has_none),
    "recall": (recall, is_recalled),
}
EVERY = [(kind, what, 0) for kind in ("sqlite", "mongodb") for what in (*SAYS, "attach")]
ALWAYS = [("sqlite", "edit", 2), ("mongodb", "edit-by-name", 2), ("mongodb", "react", 3), ("mongodb", "attach", 2)]


@pytest.mark.parametrize(("kind", "what", "only"), [*ALWAYS, *(pytest.param(*one, marks=pytest.mark.slow) for one in EVERY)])
async def test_it_is_whole_or_nothing_of_it_is_there(tmp_path: Path, kind: str, what: str, only: int) -> None:
    """Killed at the step ``only``, or at one after the other. It can be done again, which changes nothing where it was made."""
    async with storage_url(kind, tmp_path) as url, Killed(tmp_path, url) as broker:
        for step in [only] if only else range(1, MOST_STEPS):
            if not await (attached(broker, step) if what == "attach" else said(broker, step, *SAYS[what])):
                assert step > 2
                break
        else:
            assert only


class Killed:
    """A broker that is killed at a step, over either storage."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        self._url = url
        self._proxy = MongoProxy(*mongo_server.address())
        self._http = free_port()
        self.process: BrokerProcess | None = None

    async def __aenter__(self) -> Killed:
        await self._proxy.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._end()
        await self._proxy.stop()

    async def _end(self) -> None:
        if self.process is not None:
            await asyncio.to_thread(self.process.kill)

    @asynccontextmanager
    async def serving(self, step: int = 0) -> AsyncIterator[Http]:
        """Started anew. ``step``: that of a commit on SQLite at which it dies."""
        await self._end()
        url = self._url if self._url.startswith("sqlite") else self._through_proxy()
        recall: dict[str, Any] = {"tests.recall.crashing.Crashing": {"step": step if self._url.startswith("sqlite") else 0}}
        attachments = {"directory": str(self._folder / "attachments"), "shared": True}
        http = {"bind": f"127.0.0.1:{self._http}", "operator_file": ""}
        plugins = {**NOBODY, **ANONYMOUS, "http": http, "attachments": attachments, **recall}
        self.process = BrokerProcess(self._folder, url, plugins=plugins)
        await asyncio.to_thread(self.process.start)
        async with Http(base_url=f"http://127.0.0.1:{self._http}/v1", timeout=30) as http_client:
            await until(partial(answers, http_client))
            yield http_client

    def _through_proxy(self) -> str:
        database = self._url.partition("?")[0].rpartition("/")[2]
        return mongo_server.url(database, "tideline_lease_ms=1000", through=self._proxy.port)

    async def killed(self, step: int, act: Awaitable[httpx.Response]) -> bool:
        """Whether it was killed in this; on MongoDB as its commit's ``step``-th write is on its way."""
        process = self.process
        assert process is not None
        assert process.process is not None
        left = step

        def pass_on(command: Command) -> bool:
            nonlocal left
            assert process.process is not None
            left -= command.name in WRITES and command.collection in LOSABLE
            if not left:
                process.process.kill()
            return left > 0

        if not self._url.startswith("sqlite"):
            self._proxy.pass_on = pass_on
        try:
            answer = await act
        except httpx.HTTPError:
            await until(process.process.poll)
            return True
        finally:
            self._proxy.pass_on = lambda command: True
        assert answer.status_code < 300, answer.text
        return False


async def answers(http: Http) -> bool:
    try:
        return (await http.get("/health")).status_code == 200
    except httpx.HTTPError:
        return False


async def count(http: Http) -> int:
    return int((await http.get(f"/conversations/{TOPIC}/messages", params={"limit": 1})).json()["messages"][0]["seq"])


async def said(broker: Killed, step: int, act: Act, made: Callable[[Http, str], Awaitable[bool]]) -> bool:
    """Whether the broker was killed."""
    async with broker.serving() as http:
        id = (await http.post("/messages", json={"topic": TOPIC, "payload": "old"}, params=ANN)).json()["id"]
        if act in (react_back, recall):  # there is a reaction that goes
            await react(http, id)
        before = await count(http)
        assert not await made(http, id)
    async with broker.serving(step) as http:
        died = await broker.killed(step, act(http, id))
    async with broker.serving() as http:
        assert await made(http, id) == (await count(http) > before), f"half of it, at step {step}"
        assert (await act(http, id)).status_code < 300
        assert await made(http, id)
    return died


async def has_message(http: Http) -> bool:
    """Whether a message has the attachment that was uploaded last."""
    listed = (await http.get("/attachments")).json()["attachments"]
    return bool(max(listed, key=lambda one: one["created"])["message"])


async def attached(broker: Killed, step: int) -> bool:
    """Whether the broker was killed."""
    async with broker.serving() as http:
        http.params = httpx.QueryParams(ANN)
        await http.post("/messages", json={"topic": TOPIC, "payload": "first"})
        path = await whole(http, TOPIC, b"bytes")
        before = await count(http)
    async with broker.serving(step) as http:
        http.params = httpx.QueryParams(ANN)
        died = await broker.killed(step, published(http, TOPIC, path))
    async with broker.serving() as http:
        http.params = httpx.QueryParams(ANN)
        assert await has_message(http) == (await count(http) > before), f"half of it, at step {step}"
        assert (await published(http, TOPIC, path)).status_code == 201
        assert await has_message(http)
    return died
