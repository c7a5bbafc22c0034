"""Typing: told to who is there, under the access rules of the conversation, and stored nowhere."""

from __future__ import annotations

from typing import Any

from broker.packets.codes import ReasonCode
from tests.presence.test_presence import broker
from tests.support.wire import Client


async def test_who_types_is_told_and_nothing_is_kept(url: str) -> None:
    policies: dict[str, Any] = {"persistence": {"url": url, "policies": [{"filter": "$typing/#", "mode": "sync"}]}}
    async with broker(url, plugins=policies) as made:
        ann, bob = await made.client("ann", 5), await made.durable("bob", 5)
        await bob.subscribe("$typing/chat/1", options=1)
        assert await ann.publish("$typing/chat/1", b"typing", retain=True) == 0
        assert (await bob.message()).payload == b"typing"
        storage = made.server.storage
        assert await storage.conversation_bounds("$typing/chat/1") == (1, 0)
        assert await storage.inbox_head("c/bob") == 0
        assert await storage.retained_range("$typing/", "", 10) == []
        late = await made.client("late")
        await late.subscribe("$typing/chat/1")
        await late.quiet()


async def test_the_rules_are_those_of_the_conversation() -> None:
    rules = [{"allow": "all", "topics": "chat/1"}, {"allow": "read", "topics": "chat/2"}]
    async with broker(plugins={"acl": {"rules": rules}}) as made:
        ann = await made.client("ann", 5)
        assert await ann.subscribe("$typing/chat/1", "$typing/chat/2", "$typing/chat/3", "$typing/#") == [0, 0, 0x87, 0x87]
        codes = [await ann.publish(f"$typing/chat/{number}", b"x", 2) for number in (2, 3)]
        assert codes == [ReasonCode.NOT_AUTHORIZED] * 2
        await ann.publish("$typing/chat/1", b"x", 0)
        assert (await ann.message()).topic == "$typing/chat/1"


async def test_one_that_types_all_the_time_is_told_now_and_then() -> None:
    async with broker(plugins={"presence": {"typing_rate": 0.01, "typing_size": 10}}) as made:
        bob, ann, eve = [await made.client(name, 5) for name in ("bob", "ann", "eve")]
        await bob.subscribe("$typing/+", options=1)
        for _ in range(50):
            await ann.publish("$typing/a", b"x")
        await ann.publish("$typing/b", b"another conversation")
        assert await refused(ann) == ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
        await eve.publish("$typing/a", b"eve")
        payloads = [m.payload for m in await bob.messages(6)]
        assert payloads == [b"x"] * 5 + [b"eve"]
        await bob.quiet()


async def refused(client: Client) -> int:
    return await client.publish("$typing/b", b"more than 10 bytes")
