"""Erasing users and conversations: all of it, whatever is killed meanwhile, and as often as it is asked for."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import plugins.recall.eraser as eraser_module
import plugins.recall.erasures as erasures_module
import plugins.recall.known as known_module
import plugins.recall.plugin as plugin_module
from broker.cli.main import main
from plugins.recall.erasures import Erasures
from plugins.timelines import Conflict
from storage.errors import StorageUnavailable
from storage.factory import open_url
from tests.cli.processes import Api, serving
from tests.http.conftest import Site, passwords, site, sites
from tests.support.storages import storage_url
from tests.support.until import PATIENCE, until, wait_until

__all__ = ["passwords", "sites"]

Sites = Callable[..., AbstractAsyncContextManager[Site]]
TOPICS = ("chat/a", "chat/b", "chat/c")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several steps of each phase."""
    monkeypatch.setattr(eraser_module, "PAGE", 7)
    monkeypatch.setattr(erasures_module, "_LOOK", 0.05)


async def fill(broker: Site) -> None:
    """Ann and Bob talk, and each retains something; both have a device that gets all of it."""
    for name in ("ann", "bob"):
        client = await broker.durable(name, 5)
        await client.subscribe("chat/#", options=1)
        await broker.lose(client, name)
    caller = broker.caller()
    for number in range(8):
        for name in ("ann", "bob"):
            said: list[dict[str, Any]] = [{"topic": topic, "payload": f"{name} says {number}"} for topic in TOPICS]
            said.append({"topic": f"chat/kept/{name}", "payload": f"{name} retains", "retain": True})
            assert (await caller.post("/messages", json=said, params={"user": f"c/{name}"})).status_code == 200


async def erased(broker: Site, **what: str) -> dict[str, Any]:
    """Ask for it, and wait until it is done."""
    caller = broker.caller()
    assert (await caller.post("/erasures", json=what)).status_code == 202
    ((kind, name),) = what.items()

    async def done() -> Any:
        state = (await caller.get(f"/erasures/{kind}/{name}")).json()
        return state["state"] == "done" and state

    found: dict[str, Any] = await until(done)
    return found


async def of(broker: Site, user: str) -> list[Any]:
    """All that a user published that has content."""
    found = [m for topic in TOPICS for m in await broker.server.storage.read_conversation(topic, limit=1000)]
    found += await broker.server.storage.retained_range("", "", 100)
    return [message for message in found if message.user == user and message.payload]


async def check_ann_is_gone(broker: Site) -> None:
    storage = broker.server.storage
    assert await of(broker, "c/ann") == []
    assert len(await of(broker, "c/bob")) == 8 * len(TOPICS) + 1
    assert await storage.devices_of("c/ann") == []
    first, last = await storage.inbox_bounds("c/ann")
    assert first == last + 1
    assert len(await storage.devices_of("c/bob")) == 1


async def test_a_user_is_erased(chat: Site) -> None:
    """Messages, what is retained, devices and inbox; what others said stays, and doing it again changes nothing."""
    await fill(chat)
    done = await erased(chat, user="c/ann")
    await check_ann_is_gone(chat)
    assert (done["recalled"], done["failed"], done["permille"]) == (8 * len(TOPICS) + 8, 0, 1000)
    before = [await chat.server.storage.conversation_bounds(topic) for topic in TOPICS]
    assert (await erased(chat, user="c/ann"))["recalled"] == 0
    assert [await chat.server.storage.conversation_bounds(topic) for topic in TOPICS] == before
    bob = await chat.durable("bob", 5)
    await until(lambda: _all_told(bob))


async def _all_told(bob: Any) -> bool:
    """Bob's device hears of every recalled message, by the ids that the empty ones name."""
    message = await bob.message()
    return any(name == "tideline-recalls" for name, _ in message.properties.get(38, ()))


async def test_a_conversation_is_erased(chat: Site) -> None:
    await fill(chat)
    done = await erased(chat, conversation="chat/a")
    assert done["recalled"] == 16
    page = await chat.server.storage.read_conversation("chat/a", limit=100)
    assert not any(message.payload for message in page)
    assert [m.recalled for m in page] == [True] * 16 + [False] * (len(page) - 16)
    assert len(await of(chat, "c/bob")) == 8 * (len(TOPICS) - 1) + 1


async def test_what_a_plugin_took_too_long_for_is_recalled_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what storage was too slow for: nothing is passed over that can be had a moment later."""
    known_of, tried = known_module.known_of, 0

    async def slow(*of: Any) -> Any:
        nonlocal tried
        tried += 1
        if tried == 1:
            await asyncio.Event().wait()
        if tried < 5:
            raise StorageUnavailable("not now")
        return await known_of(*of)

    async with site(plugins={"recall": {}}, hooks={"timeout": 0.05}, errors=True) as chat:
        await fill(chat)
        monkeypatch.setattr(plugin_module, "known_of", slow)
        done = await erased(chat, user="c/ann")
        await check_ann_is_gone(chat)
        assert (tried > 5, done["failed"]) == (True, 0)


async def test_each_step_may_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is made, and what says so is lost: as if the broker had been killed between the two, every time."""
    commit, tried = Erasures._commit, 0

    async def lost(erasures: Erasures, op: Any) -> None:
        nonlocal tried
        tried += 1
        if tried % 2 == 0:
            raise Conflict("lost")
        await commit(erasures, op)

    async with site(f"sqlite:///{tmp_path}/t.db", plugins={"recall": {}}) as chat:
        await fill(chat)
        monkeypatch.setattr(Erasures, "_commit", lost)
        await erased(chat, user="c/ann")
        await check_ann_is_gone(chat)
        assert tried > 20
        content = b"".join(await asyncio.to_thread(lambda: [file.read_bytes() for file in tmp_path.glob("t.db*")]))
        if b"ann says" in content or b"ann retains" in content:  # the log is cut soon
            await until(lambda: not any(b"ann says" in f.read_bytes() for f in tmp_path.glob("t.db*")))


@pytest.mark.parametrize(
    ("kind", "messages", "kills"),
    [("sqlite", 6000, 2), ("mongodb", 300, 1), pytest.param("mongodb", 1000, 1, marks=pytest.mark.slow)],
)
async def test_a_killed_broker_goes_on(tmp_path: Path, kind: str, messages: int, kills: int) -> None:
    """SIGKILL within an erasure; the broker that starts then ends it, and SQLite's files have none of it."""
    (tmp_path / "data").mkdir()
    async with storage_url(kind, tmp_path / "data") as url:
        await asyncio.to_thread(killed, tmp_path, url, messages, kills)
        storage = open_url(url, read_only=True)
        await storage.open()
        async for topic, first, last in storage.conversations("chat/"):
            page = await storage.read_conversation(topic, limit=1000)
            assert [m.seq for m in page] == list(range(first, last + 1))
            assert not any(message.payload for message in page)
            assert sum(message.recalled for message in page) == messages // 50
        await storage.close()


def killed(folder: Path, url: str, messages: int, kills: int) -> None:
    """Ann says so many messages, in 50 topics, and is erased."""
    variables = {"TIDELINE__PERSISTENCE__URL": url}
    with serving(folder, **variables) as broker:
        api = Api(broker, folder)
        for start in range(0, messages, 500):
            numbers = range(start, min(start + 500, messages))
            some = [{"topic": f"chat/{n % 50}", "payload": f"secret-{n:05d}"} for n in numbers]
            assert api.client.post("/messages", json=some, params={"user": "u/ann"}).status_code == 200
        assert api.client.post("/erasures", json={"user": "u/ann"}).status_code == 202
        wait_until(lambda: api.client.get("/erasures/user/u/ann").json()["phase"] == "messages", "it recalls messages")
        broker.signal(signal.SIGKILL)
        broker.wait()
    for _ in range(kills - 1):
        with serving(folder, **variables) as broker:
            Api(broker, folder)
            broker.signal(signal.SIGKILL)
            broker.wait()
    with serving(folder, **variables) as broker:
        api = Api(broker, folder)
        done = wait_until(
            lambda: (state := api.client.get("/erasures/user/u/ann").json())["state"] == "done" and state,
            "it is done",
            3 * PATIENCE,
        )
        assert done["failed"] == 0
        files = [folder / "data" / f"t.db{end}" for end in ("", "-wal")]
        wait_until(lambda: not any(b"secret-0" in file.read_bytes() for file in files if file.exists()), "gone from the files")
        broker.signal(signal.SIGTERM)
        broker.wait()


async def test_the_command_and_what_it_is_told(tmp_path: Path) -> None:
    operator, config = tmp_path / "operator.json", tmp_path / "config.yaml"
    config.write_text(f"persistence: 'memory://'\nplugins:\n  http: {{operator_file: {operator}}}\n")

    async def command(*words: str, code: int = 0) -> Result:
        done = await asyncio.to_thread(CliRunner().invoke, main, ["erase", *words, "-c", str(config)])
        assert done.exit_code == code, done.output
        return done

    await command("user", "ann", "--yes", code=3)
    http = {"bind": "127.0.0.1:0", "operator_file": str(operator)}
    async with site("memory://", plugins={"recall": {}, "http": http}) as made:
        await fill(made)
        assert "c/ann is erased: 32 messages recalled" in (await command("user", "c/ann", "--yes")).output
        assert "chat/b is erased: 8 messages recalled" in (await command("conversation", "chat/b", "--yes")).output
        nothing = (await command("user", "anne", "--yes")).output
        assert "u/anne is erased: 0 messages recalled\nthere was none: is the name right?" in nothing
        assert "c/bob: all of its messages" in (await command("user", "c/bob", code=1)).output
        assert "topic name 'a/#' holds a wildcard" in (await command("conversation", "a/#", "--yes", code=2)).output
        caller = made.caller()
        listed = (await caller.get("/erasures")).json()["erasures"]
        assert [(one["what"], one["name"]) for one in listed] == [
            *(("conversation", "chat/b"), ("user", "c/ann"), ("user", "u/anne"))
        ]
        wrong = await caller.post("/erasures", json={"user": "ann"})
        assert (wrong.status_code, json.loads(wrong.text)["detail"]) == (
            422,
            "user 'ann': must be u/<user name> or c/<client id>",
        )
        assert (await caller.post("/erasures", json={})).status_code == 422
        assert (await caller.delete("/erasures/user/c/ann")).status_code == 204
        assert (await caller.get("/erasures/user/c/ann")).status_code == 404


async def test_whose_name_is_as_long_as_may_be(tmp_path: Path) -> None:
    user = f"c/{'a' * 20_000}"
    async with site(f"sqlite:///{tmp_path}/t.db", plugins={"recall": {}}) as made:
        client = await made.client(user[2:], 5)
        assert await client.publish("chat/a", b"said", qos=1) == 0x10  # stored, and nobody subscribes
        assert len(await of(made, user)) == 1
        await erased(made, user=user)
        assert await of(made, user) == []


async def test_a_user_erases_itself_where_it_may_and_nobody_else(sites: Sites, tmp_path: Path) -> None:
    async def asked(made: Site, who: str, **what: str) -> int:
        return (await made.caller(who).post("/erasures", json=what)).status_code

    async with sites(f"sqlite:///{tmp_path}/t.db", {"recall": {}}) as made:
        assert await asked(made, "alice", user="u/alice") == 403
    async with sites(f"sqlite:///{tmp_path}/t.db", {"recall": {"own_erasure": True}}) as made:
        alice, bob = made.caller("alice"), made.caller("bob")
        for caller in (alice, bob):
            await caller.post("/messages", json={"topic": "chat/a", "payload": "said"})
        assert await asked(made, "alice", user="u/bob") == await asked(made, "alice", conversation="chat/a") == 403
        phone = await made.device("bob", "phone")
        await phone.subscribe("$sync/reply/phone", options=1)
        for request, status in (
            ({"user": "u/alice"}, 403),
            ({"user": "c/phone"}, 403),
            ({"conversation": "chat/a"}, 403),
            ({}, 422),
        ):
            await phone.publish("$sync/request", json.dumps({"op": "erase", **request}).encode(), qos=1)
            assert json.loads((await phone.message()).payload)["error"]["status"] == status, request
        assert await asked(made, "alice", user="u/alice") == 202

        async def done() -> bool:
            return bool((await alice.get("/erasures/user/u/alice")).json()["state"] == "done")

        await until(done)
        assert (await bob.get("/erasures/user/u/alice")).status_code == 403
        assert (await alice.get("/erasures")).status_code == 403
        said = (await bob.get("/conversations/chat/a/messages", params={"order": "oldest"})).json()["messages"]
        assert [(one["sender"], one["payload"]) for one in said[:2]] == [("u/alice", ""), ("u/bob", "said")]


async def test_a_client_that_nobody_verified_erases_nothing(tmp_path: Path) -> None:
    async with site(f"sqlite:///{tmp_path}/t.db", plugins={"recall": {"own_erasure": True}}) as made:
        phone = await made.durable("phone")
        await phone.subscribe("$sync/reply/phone", options=1)
        await phone.publish("$sync/request", b'{"op": "erase", "user": "c/phone"}', qos=1)
        assert json.loads((await phone.message()).payload)["error"]["status"] == 403
