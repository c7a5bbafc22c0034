"""A group with an operation of every kind, what it gives, and checks of a whole database against the laws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from storage.cluster import DEAD
from storage.errors import StorageUnavailable
from storage.mongo import MongoStorage
from storage.mongo.documents import Collections
from storage.records import (
    CloseSession,
    DeviceKey,
    DropRow,
    DropSetting,
    Inflight,
    InflightState,
    JobState,
    Join,
    MarkRead,
    Operation,
    Progress,
    PutRow,
    Release,
    SaveJob,
    SaveSetting,
    SaveToken,
    Token,
    Unsubscribe,
)
from tests.storage.samples import START, Maker, opened, subscribe

ANN, BOB = DeviceKey("u/ann", "phone"), DeviceKey("u/bob", "pad")
_OF_ITS_WRITER = {"v", "generation", "revision", "node", "claimed_at", "gone_at", "changing", "changed", "recent"}
TOPICS, USERS = ["a", "b", "r"], ["u/ann", "u/bob"]


async def prepare(storage: MongoStorage, make: Maker) -> list[Operation]:
    """Commit a beginning; return a group that touches every collection."""
    kept = make.append("r", retain=True)
    await storage.commit([opened(ANN), subscribe(ANN, "a", "b"), kept, make.append("a", USERS, received=(ANN, 1))])
    return [
        make.append("a", USERS),
        make.append("new", ["u/ann", "u/new"], received=(ANN, 2), qos=2),
        Release(ANN, 1),
        opened(BOB, 3, at=START, start="last:2"),
        subscribe(BOB, "r", "a", epoch=3, retained=[kept.message]),
        make.append("b", USERS, idempotency_key="k", idempotency_until=START + 10_000, payload=b"once"),
        make.append("b", USERS, idempotency_key="k", idempotency_until=START + 10_000, payload=b"once"),
        make.append("r", ["u/ann"], retain=True, payload=b"new"),
        make.append("r/live", retain=True, store=False),
        Unsubscribe(ANN, 1, ["b"]),
        Progress(ANN, 1, 1, 2, [Inflight(4, 2, InflightState.PUBLISHED_1)]),
        subscribe(ANN, "c"),
        CloseSession(ANN, 1, False, expiry=5, expires_at=START + 5),
        Join([("u/ann", "a")]),
        MarkRead("u/ann", "a", 1),
        SaveToken(Token("t", "d", "u/ann", "label", 1, 2)),
        SaveJob(JobState("sweep", "daily", 9, 1, 2, "done")),
        SaveSetting("user", "ann", b"kept"),
        SaveSetting("user", "bob", b"kept"),
        DropSetting("user", "bob"),
        PutRow("member", "a", "ann", b"old", 0),
        PutRow("member", "a", "ann", b"new"),
        PutRow("member", "a", "bob", b""),
        DropRow("member", "a", "bob"),
        make.append("a", USERS),
    ]


async def finish_for(storage: MongoStorage, token: int) -> int:
    """Finish what another writer has left half done; how many inbox entries were missing."""
    assert storage.cluster is not None
    return (await storage.cluster.finish(token)).entries


async def told(storage: MongoStorage, group: Sequence[Operation]) -> bool:
    """Commit; False where its outcome is unknown."""
    with suppress(StorageUnavailable):
        await storage.commit(group)
        return True
    return False


async def content(storage: MongoStorage) -> dict[str, object]:
    """Every document of the database, but for whose it is, when it was written, and what is only announced."""
    found: dict[str, object] = {}
    for name, collection in zip(Collections._fields, storage.collections, strict=True):
        if name not in ("lease", "announced", "nodes", "routes"):
            documents = await collection.find().to_list(None)
            own = [d for d in documents if d["_id"] != "epoch"]  # which names the database
            plain = (sorted((k, repr(v)) for k, v in d.items() if k not in _OF_ITS_WRITER) for d in own)
            found[name] = sorted(plain, key=repr)
    told = [route["changes"] for route in await storage.collections.routes.find().sort("seq", 1).to_list(None)]
    found["routes"] = [changes for changes, before in zip(told, [None, *told], strict=False) if changes != before]
    return found


async def check_laws(storage: MongoStorage, acknowledged: Iterable[int] = ()) -> int:
    """Sequences are 1..N; nothing acknowledged is missing; each message is once in each due inbox, in its publisher's order.

    Returns how many messages are stored.
    """
    c = storage.collections
    messages = {d["mid"]: d for d in await c.store.find().to_list(None)}
    assert set(acknowledged) <= set(messages), "an acknowledged message is not stored"
    conversations: dict[str, list[int]] = {}
    for document in messages.values():
        conversations.setdefault(document["topic"], []).append(document["seq"])
    for topic, seqs in conversations.items():
        assert sorted(seqs) == list(range(1, len(seqs) + 1)), f"{topic} has a gap or a double"
    inboxes: dict[str, list[tuple[int, int]]] = {}
    for entry in await c.sync.find().to_list(None):
        if not entry.get("target"):
            inboxes.setdefault(entry["user"], []).append((entry["seq"], entry["mid"]))
        else:
            inboxes.setdefault(entry["user"], []).append((entry["seq"], 0))
    due: dict[str, list[int]] = {}
    for mid in sorted(messages):
        for user in messages[mid].get("recipients", ()):
            due.setdefault(user, []).append(mid)
    for user in due.keys() | inboxes.keys():
        entries = sorted(inboxes.get(user, []))
        assert [seq for seq, _ in entries] == list(range(1, len(entries) + 1)), f"inbox of {user} has a gap or a double"
        got = [mid for _, mid in entries if mid]
        assert sorted(got) == due.get(user, []), f"inbox of {user} lacks an entry or has it twice"
        by_publisher: dict[str, int] = {}
        for mid in got:
            publisher = messages[mid]["device"]
            assert by_publisher.get(publisher, 0) < mid, f"inbox of {user} is not in the order of {publisher}"
            by_publisher[publisher] = mid
    return len(messages)


async def fail_over(storage: MongoStorage) -> list[int]:
    """What a broker does about dead nodes, for all others that there are, which the test knows to have ended: their tokens."""
    cluster = storage.cluster
    assert cluster is not None
    tokens = []
    for node in await cluster.nodes():
        if node.token != cluster.me.token:
            assert node.state == DEAD or await cluster.mark_dead(node)
            await cluster.finish(node.token)
            await cluster.settle(node.token)
            tokens.append(node.token)
    return tokens
