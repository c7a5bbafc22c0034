"""A message's entry in an inbox: by what the store says of it, and where others wrote much meanwhile, or it says nothing."""

from __future__ import annotations

import pytest

from storage.mongo import MongoStorage, recipients
from storage.mongo.codec import pack_places
from tests.storage.samples import Maker
from tests.support import mongo_server


@pytest.mark.parametrize("change", ["the place is far before it", "imported"])
async def test_an_entry_is_found_where_the_store_does_not_say_its_place(
    database: str, make: Maker, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a moment at which others wrote much to the inbox; and as where an import has no recipients to tell."""
    monkeypatch.setattr(recipients, "NEAR", 5)
    storage = MongoStorage(mongo_server.url(database))
    await storage.open()
    appends = make.appends(20, "a", to=["u/ann"])
    await storage.commit(appends)
    last = appends[-1]
    assert list(last.inbox_seqs) == [20]
    update = {"$unset": {"recipients": 1}} if change == "imported" else {"$set": {"places": pack_places([1])}}
    await storage.collections.store.update_one({"topic": "a", "seq": 20}, update)
    assert await storage.entries_of(last.message, ["u/ann", "u/bob"]) == [20, 0]
    await storage.close()
