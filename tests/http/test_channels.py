"""The channels of large groups over HTTP: named with the inbox, read and acknowledged with the offsets that MQTT moves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from amqtt.contexts import Action
from amqtt.plugins.base import BaseTopicPlugin

from tests.http.conftest import Site
from tests.support.until import until

GROUP = {"device": "laptop", "channel": "group/#"}


def large(url: str) -> dict[str, Any]:
    """Messages below group/ are kept once for all readers."""
    return {"persistence": {"url": url, "policies": [{"filter": "group/#", "mode": "sync", "fanout": "read"}]}}


@pytest.fixture
async def grouped(sites: Any, tmp_path: Path) -> Any:
    url = f"sqlite:///{tmp_path}/t.db"
    async with sites(url, plugins=large(url)) as made:
        yield made


async def prepared(site: Site, *filters: str) -> Any:
    """A laptop with these filters, gone, and somebody who reads all of the group; whoever sends."""
    laptop = await site.device("alice", "laptop", 5)
    await laptop.subscribe(*filters, options=1)
    await laptop.leave()
    reader = await site.device("eve", "reader")
    await reader.subscribe("group/#", options=1)
    return await site.device("bob", "sender")


def payloads(page: dict[str, Any]) -> list[str]:
    return [entry["message"]["payload"] for entry in page["entries"]]


async def test_channels_are_named_read_and_acknowledged(grouped: Site) -> None:
    sender = await prepared(grouped, "group/a", "chat/#")
    for number, topic in enumerate(("group/a", "chat/a", "group/other", "group/a")):
        await sender.publish(topic, b"%d" % number, qos=1)
    http = grouped.caller("alice")
    inbox = (await http.get("/sync", params={"device": "laptop"})).json()
    assert (inbox["channel"], inbox["head"], payloads(inbox)) == (None, 1, ["1"])
    assert inbox["channels"] == [{"channel": "group/#", "offset": 0, "head": 3}]
    claim = {"device": "laptop", "epoch": inbox["epoch"]}
    page = (await http.get("/sync", params={**claim, "channel": "group/#"})).json()
    assert (page["channel"], page["offset"], page["next"], page["head"]) == ("group/#", 0, 3, 3)
    assert payloads(page) == ["0", "3"]
    assert [entry["offset"] for entry in page["entries"]] == [1, 3]
    assert (await http.post("/sync/ack", json={**claim, "channel": "group/#", "offset": 2})).json() == {"offset": 2}
    assert (await http.post("/sync/ack", json={**claim, "channel": "group/#", "offset": 1})).json() == {"offset": 2}
    after = (await http.get("/sync", params=claim)).json()
    assert (after["offset"], payloads(after)) == (0, ["1"])
    assert after["channels"] == [{"channel": "group/#", "offset": 2, "head": 3}]
    laptop = await grouped.device("alice", "laptop", 5)
    assert sorted(message.payload for message in await laptop.messages(2)) == [b"1", b"3"]
    await laptop.quiet()


async def test_what_a_filter_came_too_late_for_is_not_due(grouped: Site) -> None:
    sender = await prepared(grouped, "group/a")
    await sender.publish("group/b", b"before", qos=1)
    http = grouped.caller("alice")
    assert (await http.post("/devices/laptop/subscriptions", json={"filter": "group/b"})).status_code == 200
    await sender.publish("group/b", b"behind", qos=1)
    assert payloads((await http.get("/sync", params=GROUP)).json()) == ["behind"]
    assert (await http.delete("/devices/laptop/subscriptions", params={"filter": "group/a"})).status_code == 204
    assert (await http.delete("/devices/laptop/subscriptions", params={"filter": "group/b"})).status_code == 204
    assert (await http.get("/sync", params=GROUP)).status_code == 404


async def test_what_was_sent_and_acknowledged_over_http_is_not_sent_again(grouped: Site) -> None:
    sender = await prepared(grouped, "group/#")
    laptop = await grouped.device("alice", "laptop", 5)
    for number in range(3):
        await sender.publish("group/a", b"%d" % number, qos=1)
    for number in range(3):
        assert (await laptop.message(finish=False)).payload == b"%d" % number
    await laptop.leave()
    http = grouped.caller("alice")

    async def gone() -> bool:
        return not (await http.get("/devices/laptop")).json()["connected"]

    await until(gone)
    page = (await http.get("/sync", params=GROUP)).json()
    assert payloads(page) == ["0", "1", "2"]
    ack = {**GROUP, "epoch": page["epoch"], "offset": 2}
    assert (await http.post("/sync/ack", json=ack)).json() == {"offset": 2}
    laptop = await grouped.device("alice", "laptop", 5)
    assert (await laptop.message()).payload == b"2"
    await laptop.quiet()


async def test_the_offset_in_a_channel_survives_a_restart(sites: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    async with sites(url, plugins=large(url)) as made:
        sender = await prepared(made, "group/#")
        for number in range(3):
            await sender.publish("group/a", b"%d" % number, qos=1)
        page = (await made.caller("alice").get("/sync", params=GROUP)).json()
        ack = {**GROUP, "epoch": page["epoch"], "offset": 2}
        assert (await made.caller("alice").post("/sync/ack", json=ack)).json() == {"offset": 2}
    async with sites(url, plugins=large(url)) as made:
        page = (await made.caller("alice").get("/sync", params=GROUP)).json()
        assert (page["offset"], payloads(page)) == (2, ["2"])


async def test_what_is_wrong_is_said(grouped: Site) -> None:
    await prepared(grouped, "group/#")
    http = grouped.caller("alice")
    first = (await http.get("/sync", params=GROUP)).json()
    unknown = await http.get("/sync", params={"device": "laptop", "channel": "other/#"})
    assert unknown.status_code == 404
    assert "other/#" in unknown.json()["detail"]
    assert (await http.get("/sync", params={"device": "new", "channel": "group/#"})).status_code == 404
    ack = {**GROUP, "epoch": first["epoch"], "offset": 1}
    past = await http.post("/sync/ack", json=ack)
    assert (past.status_code, past.json()["detail"]) == (422, "offset 1 is past the head of the channel, 0")
    assert (await http.post("/sync/ack", json={**ack, "channel": "other/#"})).status_code == 404
    assert (await http.get("/sync", params=GROUP)).json()["epoch"] > first["epoch"]
    assert (await http.post("/sync/ack", json={**ack, "offset": 0})).status_code == 409


async def test_who_waits_for_a_channel_is_woken_by_it(grouped: Site) -> None:
    sender = await prepared(grouped, "group/#")
    http = grouped.caller("alice")
    waiting = asyncio.create_task(http.get("/sync", params={**GROUP, "wait": 30}, timeout=40))
    watched = grouped.server.delivery.watched
    await until(lambda: "r/group/#" in watched)
    await sender.publish("group/a", b"now", qos=1)
    assert payloads((await waiting).json()) == ["now"]


class Secret(BaseTopicPlugin):
    """Nobody may receive group/secret, whatever they subscribe to."""

    async def topic_filtering(self, **asked: Any) -> bool:
        return bool(asked["action"] != Action.RECEIVE or asked["topic"] != "group/secret")


async def test_what_may_not_be_received_is_not_shown(sites: Any, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    async with sites(url, plugins={**large(url), f"{__name__}.Secret": {}}) as made:
        sender = await prepared(made, "group/#")
        for topic in ("group/a", "group/secret"):
            await sender.publish(topic, topic.encode(), qos=1)
        page = (await made.caller("alice").get("/sync", params=GROUP)).json()
        assert (payloads(page), page["next"]) == (["group/a"], 2)
