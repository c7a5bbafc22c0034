"""A broker with conversations, on SQLite and on MongoDB, and its users' callers and devices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
import pytest

from tests.http.conftest import Site, passwords, sites
from tests.support.storages import url
from tests.support.until import until

__all__ = ["passwords", "sites", "url"]

ALICE, BOB, EVE = "u/alice", "u/bob", "u/eve"
FAN_OUT = [{"filter": "conv/channel/#", "fanout": "read"}]


@pytest.fixture
async def talk(sites: Callable[..., AbstractAsyncContextManager[Site]], url: str) -> AsyncIterator[Site]:
    async with sites(url, plugins={"conversations": {}}) as made:
        yield made


async def group(caller: httpx.AsyncClient, *members: str, **fields: Any) -> str:
    """Begin a group; its topic."""
    made = await caller.post("/conversations", json={"kind": "group", "members": list(members), **fields})
    assert made.status_code == 201, made.text
    topic: str = made.json()["topic"]
    return topic


async def say(caller: httpx.AsyncClient, topic: str, text: str, **fields: Any) -> httpx.Response:
    return await caller.post(f"/conversations/{topic}/messages", json={"payload": text, **fields})


async def told(caller: httpx.AsyncClient, topic: str) -> list[str] | int:
    """The history that a caller sees, or the status of a refusal."""
    answer = await caller.get(f"/conversations/{topic}/messages", params={"order": "oldest"})
    if answer.status_code != 200:
        return answer.status_code
    return [message["payload"] for message in answer.json()["messages"]]


async def follows(caller: httpx.AsyncClient, device: str, topic: str) -> None:
    """Wait until a new device of the caller's follows a topic, which is soon after its CONNACK."""

    async def there() -> bool:
        answer = await caller.get(f"/devices/{device}")
        return answer.is_success and topic in [subscription["filter"] for subscription in answer.json()["subscriptions"]]

    await until(there, f"{device} follows {topic}")
