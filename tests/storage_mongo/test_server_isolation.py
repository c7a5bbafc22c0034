"""The server of tests and benchmarks keeps what it acknowledged, whatever others do meanwhile: else no law could hold over it.

As the benchmarks start it, with a thread for each command: in one thread, as in the other tests, nothing comes in between.
"""

from __future__ import annotations

import asyncio
from typing import Any

from bson import encode
from pymongo import AsyncMongoClient

from storage.mongo.commands import Encoded, insert_in_turn
from storage.mongo.connection import DUPLICATE_KEY
from tests.support import mongo_server

CLIENTS, PLACES, AT_ONCE = 4, 100, 8


async def test_a_command_for_two_collections_is_kept_beside_others() -> None:
    """Clients fight for the same places: each place is one's, and who was told that it got one is found there."""
    with mongo_server.own_server(in_turn=False) as server:
        await fight(server.url("isolation"))


async def fight(url: str) -> None:
    async with AsyncMongoClient[dict[str, Any]](url) as client:
        one, other, third = (client["isolation"][name] for name in ("one", "other", "third"))
        won: dict[int, int] = {}

        async def write(number: int) -> None:
            for at in range(0, PLACES, AT_ONCE):
                mine = [{"_id": at + n, "by": number} for n in range(AT_ONCE)]
                ops = [{"insert": place, "document": document} for place in (0, 1) for document in mine]
                written, code = await insert_in_turn(client.admin, one, other, Encoded(b"".join(map(encode, ops)), len(ops)))
                assert (written, code) == (2 * AT_ONCE, 0) or code == DUPLICATE_KEY, (written, code)
                won.update((document["_id"], number) for document in mine[:written])
                await third.insert_many([{"_id": f"{number}/{at}/{n}"} for n in range(AT_ONCE)])
                await third.update_one({"_id": 0}, {"$inc": {"n": 1}}, upsert=True)

        await third.insert_one({"_id": 0, "n": 0})
        await asyncio.gather(*(write(number) for number in range(CLIENTS)))
        turns = len(range(0, PLACES, AT_ONCE))
        assert {document["_id"]: document["by"] async for document in one.find()} == won
        assert await third.find_one({"_id": 0}) == {"_id": 0, "n": CLIENTS * turns}
        assert await third.count_documents({}) == 1 + CLIENTS * turns * AT_ONCE
