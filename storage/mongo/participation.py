"""Reading who takes part in which conversation, where it ends, who has read how far, bearer tokens, settings, jobs' states."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from storage import rules
from storage.interface import Membership, Newest
from storage.mongo.connection import storage_errors
from storage.mongo.documents import SETTINGS, Raw, pair_key
from storage.mongo.reads import conversation_bounds
from storage.mongo.state import State, batches
from storage.records import JobState, Setting, Token

_AT_ONCE = 16


async def memberships(state: State, user: str, after: str, limit: int) -> list[Membership]:
    """See `storage.interface.Participation`."""
    query = {"_id": {"$gt": pair_key(user, after), "$lt": user + "\1"}}  # the keys of one user are neighbours
    with storage_errors():
        found = await state.collections.members.find(query).sort("_id", 1).limit(limit).to_list(None) if limit > 0 else []
    topics = [document["topic"] for document in found]
    positions = await read_positions(state, [(user, topic) for topic in topics])
    page: list[Membership] = []
    for some in batches(topics, _AT_ONCE):
        bounds = await asyncio.gather(*(conversation_bounds(state, topic) for topic in some))
        page += [Membership(t, *b, positions.get((user, t), 0)) for t, b in zip(some, bounds, strict=True)]
    return page


async def newest(state: State, topics: Sequence[str]) -> list[Newest]:
    """See `storage.interface.ConversationReader`. A look into the index for each topic: no query tells the ends of several
    without going through all that is between them."""
    found: list[Newest] = []
    for some in batches(topics, _AT_ONCE):
        ends = await asyncio.gather(*(state.last_entry(state.collections.store, "topic", topic) for topic in some))
        for topic, end in zip(some, ends, strict=True):
            if end is not None and end["seq"] > state.pruned_topics.get(topic, 0):
                found.append(Newest(end["seq"], end["time"]))
            else:
                found.append(Newest(0, 0))
    return found


async def takes_part(state: State, user: str, topic: str) -> bool:
    """See `storage.interface.Participation`."""
    with storage_errors():
        return await state.collections.members.find_one({"_id": pair_key(user, topic)}) is not None


async def read_positions(state: State, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Those of the pairs' positions that were ever marked."""
    positions: dict[tuple[str, str], int] = {}
    for batch in batches([pair_key(*pair) for pair in pairs], 1000):
        with storage_errors():
            found = await state.collections.positions.find({"_id": {"$in": batch}}).to_list(None)
        positions.update({(document["user"], document["topic"]): document["seq"] for document in found})
    return positions


async def expired_between(state: State, topic: str, after: int, now: int) -> int:
    """See `storage.interface.Participation`."""
    after = max(after, state.pruned_topics.get(topic, 0))
    query = {"topic": {"$eq": topic}, "seq": {"$gt": after}, "expires": {"$gt": 0, "$lte": now}}
    with storage_errors():
        return await state.collections.store.count_documents(query)


async def sent_between(state: State, topic: str, user: str, after: int, now: int) -> int:
    """See `storage.interface.Participation`."""
    after = max(after, state.pruned_topics.get(topic, 0))
    query = {"topic": {"$eq": topic}, "seq": {"$gt": after}, "user": {"$eq": user}}
    with storage_errors():
        sent = await state.collections.store.count_documents(query)
        gone = await state.collections.store.count_documents({**query, "expires": {"$gt": 0, "$lte": now}})
    return sent - gone


def _token(document: Raw) -> Token:
    return Token(document["_id"], *(document[name] for name in Token._fields[1:]))


async def token(state: State, digest: str) -> Token | None:
    """See `storage.interface.Tokens`."""
    with storage_errors():
        document = await state.collections.tokens.find_one({"digest": {"$eq": digest}})
    return _token(document) if document else None


async def tokens(state: State, user: str) -> list[Token]:
    """See `storage.interface.Tokens`."""
    with storage_errors():
        found = await state.collections.tokens.find({"user": {"$eq": user}} if user else {}).to_list(None)
    return rules.by_creation(map(_token, found))


async def jobs(state: State) -> list[JobState]:
    """See `storage.interface.Jobs`."""
    with storage_errors():
        found = await state.collections.jobs.find({}).to_list(None)
    states = (JobState(document["_id"], *(document[name] for name in JobState._fields[1:])) for document in found)
    return sorted(states)


async def settings(state: State, kind: str) -> list[Setting]:
    """See `storage.interface.Settings`."""
    query = {"_id": {"$gte": pair_key(kind, ""), "$lt": kind + "\1"}} if kind else {}
    with storage_errors():
        found = await state.collections.settings.find(query).sort("_id", 1).to_list(None)
    return [Setting(document["kind"], document["name"], bytes(document["value"])) for document in found]


async def settings_mark(state: State) -> tuple[int, int]:
    """See `storage.cluster.Cluster.settings_mark`."""
    with storage_errors():
        found = await state.collections.meta.find_one({"_id": SETTINGS})
    return (found["changing"], found.get("changed", 0)) if found else (0, 0)
