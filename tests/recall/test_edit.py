"""Editing a message: a later version is a message of its own, and the history and the search show its content."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from broker.packets.properties import Property
from plugins.edit_rows import MOST, TABLE, TAKEN
from plugins.recall import RecallPlugin
from plugins.recall.tidying import tidy
from plugins.search import SearchPlugin
from tests.http.conftest import Site, site
from tests.recall.conftest import NO_SUBSCRIBERS, NOT_AUTHORIZED, SPECIFIC, TOPIC, ids_of
from tests.support.paho_client import PahoClient
from tests.support.until import until


def editing(*ids: int) -> dict[int, Any]:
    return {Property.USER_PROPERTY: [("tideline-edits", f"{one:016x}") for one in ids]}


async def history(broker: Site, **query: Any) -> list[dict[str, Any]]:
    answer = await broker.caller().get(f"/conversations/{TOPIC}/messages", params={"order": "oldest", **query})
    found: list[dict[str, Any]] = answer.json()["messages"]
    return found


async def test_the_history_shows_the_latest_version(chat: Site) -> None:
    """On any page, in either order, with how many versions there are; each version can still be read, and devices get each."""
    reader = await chat.durable("reader", 5)
    await reader.subscribe("chat/#", options=1)
    sender = await chat.client("sender", 5)
    for text in (b"one", b"two", b"three"):
        await sender.publish(TOPIC, text)
    one, two, _ = await ids_of(chat)
    edit = {**editing(two), Property.CONTENT_TYPE: "text/markdown"}
    assert await sender.publish(TOPIC, b"zwei", properties=edit) == 0
    assert await sender.publish(TOPIC, b"deux", properties=editing(two)) == 0
    assert [m.payload for m in await reader.messages(5)] == [b"one", b"two", b"three", b"zwei", b"deux"]
    _, _, _, first_edit, last_edit = await ids_of(chat)
    page = await history(chat)
    assert [(m["payload"], m["versions"], m["edited"]) for m in page] == [
        ("one", 1, None),
        ("deux", 3, f"{last_edit:016x}"),
        ("three", 1, None),
        ("zwei", 1, None),
        ("deux", 1, None),
    ]
    assert [m["edits"] for m in page] == [None, None, None, f"{two:016x}", f"{two:016x}"]
    assert page[1]["edited_time"] == page[4]["time"]
    assert [m["payload"] for m in await history(chat, after=1, limit=2)] == ["deux", "three"]
    newest = await history(chat, order="newest", before=4)
    assert [m["payload"] for m in newest] == ["three", "deux", "one"]
    caller = chat.caller()
    assert (await caller.get(f"/messages/{two:016x}")).json()["payload"] == "deux"
    versions = (await caller.get(f"/messages/{two:016x}/versions")).json()["versions"]
    assert [v["id"] for v in versions] == [f"{v:016x}" for v in (two, first_edit, last_edit)]
    assert (await caller.get(f"/messages/{first_edit:016x}")).json()["content_type"] == "text/markdown"
    assert [v["id"] for v in (await caller.get(f"/messages/{one:016x}/versions")).json()["versions"]] == [f"{one:016x}"]


async def test_a_recall_takes_all_versions(chat: Site) -> None:
    """Whichever of them is named."""
    sender = await chat.client("sender", 5)
    for text in (b"first", b"second", b"other"):
        await sender.publish(TOPIC, text)
    first, second, _ = await ids_of(chat)
    for one, text in ((first, b"1a"), (second, b"2a"), (first, b"1b")):
        await sender.publish(TOPIC, text, properties=editing(one))
    edit = (await ids_of(chat))[3]
    for one in (edit, second):
        named: dict[int, Any] = {Property.USER_PROPERTY: [("tideline-recalls", f"{one:016x}")]}
        assert await sender.publish(TOPIC, properties=named) == NO_SUBSCRIBERS
    kept = await chat.server.storage.read_conversation(TOPIC)
    assert [m.payload for m in kept] == [b"", b"", b"other", b"", b"", b"", b"", b""]
    assert [m["payload"] for m in await history(chat, limit=3)] == ["", "", "other"]
    assert await sender.publish(TOPIC, b"again", properties=editing(first)) == SPECIFIC


async def test_who_may_not_is_refused(tour: Site) -> None:
    sender, eve = await tour.client("sender", 5), await tour.client("eve", 5)
    await sender.publish(TOPIC, b"text")
    (one,) = await ids_of(tour)
    assert await eve.publish(TOPIC, b"x", properties=editing(one)) == NOT_AUTHORIZED
    assert await sender.publish("chat/other", b"x", properties=editing(one)) == NOT_AUTHORIZED
    assert await sender.publish(TOPIC, b"x", properties=editing(7)) == NOT_AUTHORIZED
    assert await sender.publish(TOPIC, b"x", properties=editing(one, one)) == SPECIFIC
    wrong: dict[int, Any] = {Property.USER_PROPERTY: [("tideline-edits", "it")]}
    assert await sender.publish(TOPIC, b"x", properties=wrong) == SPECIFIC
    assert await sender.publish(TOPIC, b"v2", properties=editing(one)) == NO_SUBSCRIBERS
    edit = (await ids_of(tour))[1]
    assert await sender.publish(TOPIC, b"x", properties=editing(edit)) == SPECIFIC
    plugin = tour.server.api.plugin(RecallPlugin)
    assert plugin is not None
    plugin.config.edit_within = 1e-6
    await until(lambda: tour.server.time.wall() > (one >> 22))
    assert await sender.publish(TOPIC, b"x", properties=editing(one)) == NOT_AUTHORIZED
    plugin.config.edit_within = 0
    for _ in range(MOST - 1):
        assert await sender.publish(TOPIC, b"x", properties=editing(one)) == NO_SUBSCRIBERS
    assert await sender.publish(TOPIC, b"x", properties=editing(one)) == SPECIFIC
    assert len(await ids_of(tour)) == MOST + 1


async def test_stock_clients_and_http_edit(tour: Site) -> None:
    """paho with MQTT 5, paho with 3.1.1 by `$sync/request`, and the HTTP API for the user whom the operator acts for."""
    five, three = PahoClient("five", paho.MQTTv5), PahoClient("three")
    for client in (five, three):
        await asyncio.to_thread(client.connect, tour.address)
        await asyncio.to_thread(client.publish, TOPIC, b"before")
    await asyncio.to_thread(three.subscribe, "$sync/reply/three")
    one, two = await ids_of(tour)
    properties = PahoProperties(PacketTypes.PUBLISH)
    properties.UserProperty = [("tideline-edits", f"{one:016x}")]
    await asyncio.to_thread(lambda: five.publish(TOPIC, b"after", properties=properties))
    asked = json.dumps({"op": "edit", "message": f"{two:016x}", "payload": "after that"}).encode()
    await asyncio.to_thread(three.publish, "$sync/request", asked)
    _, answer = await asyncio.to_thread(three.receive)
    assert json.loads(answer)["edited"] == f"{two:016x}"
    assert [m["payload"] for m in await history(tour, limit=2)] == ["after", "after that"]
    body = {"payload": {"now": "json"}, "encoding": "json"}
    done = await tour.caller().post(f"/messages/{one:016x}/versions", json=body, params={"user": "c/five"})
    assert (done.status_code, done.json()["edited"]) == (201, f"{one:016x}")
    assert (await history(tour, limit=1))[0]["payload"] == {"now": "json"}
    assert (await tour.caller().post(f"/messages/{one:016x}/versions", json={"payload": "x"})).status_code == 403
    for client in (five, three):
        await asyncio.to_thread(client.close)


async def test_an_edit_that_is_sent_again_is_one_version(chat: Site) -> None:
    """Over HTTP, by its key, as any message is."""
    caller, as_sender = chat.caller(), {"user": "c/sender"}
    sender = await chat.client("sender", 5)
    await sender.publish(TOPIC, b"before")
    (one,) = await ids_of(chat)

    async def edit(text: str, key: bytes) -> Any:
        path, headers = f"/messages/{one:016x}/versions", {b"Idempotency-Key": key}
        return await caller.post(path, json={"payload": text}, params=as_sender, headers=headers)

    first = await edit("after", "kä".encode())
    again = await edit("after", "kä".encode())
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert (await edit("other", "kä".encode())).status_code == 409
    assert (await edit("after", b"\xff")).status_code == 422
    assert len((await caller.get(f"/messages/{one:016x}/versions")).json()["versions"]) == 2
    assert (await edit("after", b"another")).status_code == 201
    assert len(await ids_of(chat)) == 3


@pytest.mark.parametrize("limit", ["number", "age", "recall"])
async def test_an_edit_that_was_stored_is_known_where_it_would_be_refused_by_now(
    chat: Site, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who got no answer sends it again, over MQTT 5 or HTTP, and is told where it stands. Nothing new comes in that way."""
    caller = chat.caller()
    sender = await chat.client("sender", 5)
    await sender.publish(TOPIC, b"before")
    (one,) = await ids_of(chat)

    async def by_http(text: str, key: str) -> Any:
        path, headers = f"/messages/{one:016x}/versions", {"Idempotency-Key": key}
        return await caller.post(path, json={"payload": text}, params={"user": "c/sender"}, headers=headers)

    async def by_mqtt(text: bytes, name: str) -> int:
        named: dict[int, Any] = {Property.USER_PROPERTY: [*editing(one)[Property.USER_PROPERTY], ("message-id", name)]}
        return await sender.publish(TOPIC, text, properties=named)

    assert await by_mqtt(b"one", "1") == NO_SUBSCRIBERS
    first = await by_http("two", "2")
    assert first.status_code == 201
    plugin = chat.server.api.plugin(RecallPlugin)
    assert plugin is not None
    if limit == "number":
        monkeypatch.setattr("plugins.recall.plugin.MOST_VERSIONS", 2)
    elif limit == "age":
        plugin.config.edit_within = 1e-6
        await until(lambda: chat.server.time.wall() > (one >> 22))
    else:
        recalling: dict[int, Any] = {Property.USER_PROPERTY: [("tideline-recalls", f"{one:016x}")]}
        await sender.publish(TOPIC, properties=recalling)
    had = await ids_of(chat)
    assert await by_mqtt(b"one", "1") == 0
    again = await by_http("two", "2")
    assert (again.status_code, again.json()) == (200, first.json())
    assert await by_mqtt(b"three", "3") == (NOT_AUTHORIZED if limit == "age" else SPECIFIC)
    assert (await by_http("four", "4")).status_code == (403 if limit == "age" else 422)
    assert await by_mqtt(b"other", "1") == SPECIFIC
    assert (await by_http("other", "2")).status_code == 409
    assert await ids_of(chat) == had
    if limit == "age":
        plugin.config.edit_within = 0
        assert await by_mqtt(b"three", "3") == NO_SUBSCRIBERS
        assert (await by_http("four", "4")).status_code == 201


async def test_a_key_of_another_message_s_edit_is_a_conflict(chat: Site) -> None:
    """The text may be the same: it is another message that would look edited."""
    caller = chat.caller()
    sender = await chat.client("sender", 5)
    for text in (b"one", b"two"):
        await sender.publish(TOPIC, text)
    one, two = await ids_of(chat)

    async def edit(id: int) -> Any:
        path, headers = f"/messages/{id:016x}/versions", {"Idempotency-Key": "k"}
        return await caller.post(path, json={"payload": "ok"}, params={"user": "c/sender"}, headers=headers)

    assert [(await edit(id)).status_code for id in (one, two, one)] == [201, 409, 200]
    recalling: dict[int, Any] = {Property.USER_PROPERTY: [("tideline-recalls", f"{one:016x}")]}
    await sender.publish(TOPIC, properties=recalling)
    assert (await edit(one)).status_code == 200


async def test_search_finds_the_new_text_and_not_the_old(tmp_path: Path) -> None:
    """Live, after the index was built anew, and after it was compared with the store."""
    search = {"engine": "embedded", "path": str(tmp_path / "search" / "search.db"), "gather": 0.0}
    async with site(plugins={"recall": {}, "search": search}) as made:
        sender = await made.client("sender", 5)
        await sender.publish(TOPIC, b"the xylophone plays")
        (one,) = await ids_of(made)
        await sender.publish(TOPIC, b"the trombone plays", properties=editing(one))
        await sender.publish(TOPIC, b"the clarinet plays", properties=editing(one))
        caller = made.caller()

        async def found(word: str) -> int:
            total: int = (await caller.get("/search", params={"q": word})).json()["total"]
            return total

        async def only_the_last() -> bool:
            return [await found(word) for word in ("xylophone", "trombone", "clarinet", "plays")] == [0, 0, 1, 1]

        await until(only_the_last)
        plugin = made.server.api.plugin(SearchPlugin)
        assert plugin is not None
        await plugin.reindex()
        assert await only_the_last()
        differences = await plugin.compare()
        assert (differences.missing, differences.surplus) == (0, 0)
        assert await only_the_last()


async def test_what_retention_removed_leaves_no_rows(chat: Site) -> None:
    """Those of what is left stay."""
    sender = await chat.client("sender", 5)
    for text in (b"one", b"two"):
        await sender.publish(TOPIC, text)
    one, two = await ids_of(chat)
    for target in (one, two, one):
        await sender.publish(TOPIC, b"later", properties=editing(target))
    assert await tidy(chat.server.api) == 0
    far = chat.server.time.now() + 365 * 86_400_000  # nothing is young as of then
    assert await chat.server.storage.prune_conversation(TOPIC, 2, now=far) == 1
    assert await tidy(chat.server.api) == 2
    assert [row.key[:16] for row in await chat.server.storage.rows(TABLE, TOPIC)] == [f"{2:016d}"]
    assert (await chat.caller().post(f"/messages/{two:016x}/recall", json={})).is_success
    assert len(await chat.server.storage.rows(TAKEN, TOPIC)) == 1
    assert await tidy(chat.server.api) == 0
    _, last = await chat.server.storage.conversation_bounds(TOPIC)
    while await chat.server.storage.prune_conversation(TOPIC, last + 1, now=far):
        pass
    assert await tidy(chat.server.api) == 2
    assert await chat.server.storage.rows(TAKEN, TOPIC) == []
