"""Unread counts equal a full recount at any moment: whatever was published, read, read back, removed, and is under way."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.http.conftest import Site, site
from tests.support.seeds import seeds

TOPICS = ("chat/a", "chat/b")
topics = st.sampled_from(TOPICS)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), topics, st.sampled_from(["mqtt-0", "mqtt-1", "mqtt-2", "http"]), st.integers(1, 4)),
        st.tuples(st.just("read"), topics, st.integers(0, 12), st.booleans()),
        st.tuples(st.just("read over mqtt"), topics, st.integers(0, 12), st.booleans()),
        st.tuples(st.just("remove"), topics, st.integers(0, 12)),
        st.tuples(st.just("at once"), topics, st.integers(1, 5)),
    ),
    max_size=10,
)


async def recount(http: Any, topic: str, position: int, last: int) -> int:
    """How many messages the history gives after the position, up to what was last, in pages of three."""
    found: int = 0
    cursor: str | None = None
    while True:
        given_ = {"cursor": cursor} if cursor else {"after": position, "before": last + 1, "order": "oldest"}
        page = (await http.get(f"/conversations/{topic}/messages", params={**given_, "limit": 3})).json()
        found += sum(message["seq"] <= last for message in page["messages"])
        cursor = page["next"]
        if cursor is None:
            return found


class Reader:
    """The operator's view of a broker, and an MQTT device that publishes and asks."""

    def __init__(self, made: Site, device: Any) -> None:
        self.made = made
        self.device = device
        self.http = made.caller()
        self.me = made.caller(params={"user": "c/phone"})

    async def ask(self, **request: Any) -> Any:
        await self.device.publish("$sync/request", json.dumps(request).encode(), qos=1)
        return json.loads((await self.device.message()).payload)

    async def check(self) -> None:
        """Every count that is told, against the history."""
        mine = {c["topic"]: c for c in (await self.me.get("/conversations")).json()["conversations"]}
        for topic in mine:
            over_http = (await self.me.get(f"/conversations/{topic}/position")).json()
            over_mqtt = await self.ask(op="position", topic=topic)
            for told in (mine[topic], over_http, over_mqtt):
                assert told["unread"] == await recount(self.me, topic, told["position"], told["last"]), (topic, told)

    async def act(self, action: str, topic: str, *more: Any) -> None:
        if action == "publish":
            how, count = more
            for number in range(count):
                if how == "http":
                    await self.me.post(f"/conversations/{topic}/messages", json={"payload": str(number)})
                else:
                    await self.device.publish(topic, b"%d" % number, qos=int(how[-1]))
        elif action == "read":
            await self.me.put(f"/conversations/{topic}/position", json={"position": more[0], "back": more[1]})
        elif action == "read over mqtt":
            await self.ask(op="read", topic=topic, position=more[0], back=more[1])
        elif action == "remove":
            await self.made.server.storage.prune_conversation(topic, more[0])
        else:
            writes = [self.me.post(f"/conversations/{topic}/messages", json={"payload": "x"}) for _ in range(more[0])]
            await asyncio.gather(*writes, self.checked_beside())

    async def checked_beside(self) -> None:
        """Counts that are asked for while messages come."""
        for topic in TOPICS:
            answer = await self.me.get(f"/conversations/{topic}/position")
            if answer.status_code == 200:
                told = answer.json()
                assert told["unread"] == await recount(self.me, topic, told["position"], told["last"])


@pytest.mark.parametrize("store", seeds("sqlite", more=["memory"]))
def test_at_any_moment(store: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=6, deadline=None)
    @given(steps=actions)
    def holds(steps: list[tuple[Any, ...]]) -> None:
        asyncio.run(story(steps))

    async def story(steps: list[tuple[Any, ...]]) -> None:
        url = "memory://" if store == "memory" else f"sqlite:///{tmp_path_factory.mktemp('t')}/t.db"
        async with site(url, plugins={}) as made:
            device = await made.durable("phone")
            await device.subscribe("$sync/reply/phone", options=1)
            reader = Reader(made, device)
            for step in steps:
                await reader.act(*step)
                await reader.check()

    holds()
