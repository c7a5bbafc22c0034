"""The collections, their fields and their indexes, as mongomotor documents.

They are the schema: `bind` attaches them to one connection and gives the raw asynchronous collections, which do all the work
(an ODM save costs sixty times a raw insert). A timeline's key is ``<name>\\0<sequence, 16 digits>``: no name holds U+0000.
All times are integers, milliseconds since the Unix epoch. ``v`` is the version of the group that wrote a document: the lease's
token in the high bits, a counter below, so that a write that comes late, or from a node that lost its lease, changes nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from mongomotor import Document
from mongomotor.fields import BinaryField, BooleanField, IntField, ListField, LongField, StringField
from pymongo.asynchronous.collection import AsyncCollection

Raw = dict[str, Any]
Collection = AsyncCollection[Raw]


def _meta(collection: str, *indexes: object) -> Raw:
    return {"abstract": True, "collection": collection, "auto_create_index": False, "indexes": list(indexes)}


class Published(Document):  # type: ignore[misc]
    """The fields of a message. Those that have their default are left out."""

    meta: Raw = {"abstract": True}  # noqa: RUF012 - mongoengine reads it off the class
    topic = StringField()
    seq = LongField()
    mid = LongField()
    user = StringField()
    device = StringField()
    time = LongField()
    qos = IntField()
    payload = BinaryField()
    retain = BooleanField()
    expires = LongField()
    properties = BinaryField()
    v = LongField()


class Store(Published):
    """One message of a conversation, with what recovery needs to finish its fan-out."""

    meta = _meta("store", {"fields": ["mid"], "unique": True}, ["topic", "seq"])
    key = StringField(primary_key=True)
    recipients = ListField(StringField())
    keep = BooleanField()
    """It replaces the topic's retained message."""
    received = ListField()
    """Inbound QoS 2: user key, client id, packet id."""
    once = StringField()
    """The idempotency key's document, and until when it holds."""
    once_until = LongField()


class Sync(Document):  # type: ignore[misc]
    """One entry of an inbox. ``size`` is the payload's, so that a page can be cut before its messages are fetched."""

    meta = _meta("sync", ["user", "seq"])
    key = StringField(primary_key=True)
    user = StringField()
    seq = LongField()
    mid = LongField()
    size = LongField()
    time = LongField()
    target = StringField()


class Devices(Document):  # type: ignore[misc]
    """One device. ``generation`` is the version that created it: subscriptions of another generation are not its."""

    meta = _meta("devices", ["expires_at"], ["will_at"])
    key = StringField(primary_key=True)
    user = StringField()
    client = StringField()
    generation = LongField()
    epoch = LongField()
    expiry = LongField()
    expires_at = LongField()
    created_at = LongField()
    offset = LongField()
    cursor = LongField()
    inflight = BinaryField()
    received = BinaryField()
    will = BinaryField()
    will_at = LongField()
    v = LongField()


class Subscriptions(Document):  # type: ignore[misc]
    """One subscription of a device."""

    meta = _meta("subscriptions", ["user", "client"])
    key = StringField(primary_key=True)
    user = StringField()
    client = StringField()
    generation = LongField()
    filter = StringField()
    options = IntField()
    identifier = LongField()
    since = LongField()
    v = LongField()


class Retained(Published):
    """A topic's retained message, whole, as retention may remove it from the store. ``gone`` 1 marks one that was cleared."""

    meta = _meta("retained", ["mid"], ["expires", "mid"])
    key = StringField(primary_key=True)
    gone = IntField()


class Conversations(Document):  # type: ignore[misc]
    """A topic that has, or had, messages. ``floor`` is the highest sequence ever pruned, ``time`` that entry's time."""

    meta = _meta("conversations")
    key = StringField(primary_key=True)
    floor = LongField()
    time = LongField()


class Users(Document):  # type: ignore[misc]
    """A user key that has, or had, inbox entries."""

    meta = _meta("users")
    key = StringField(primary_key=True)
    floor = LongField()
    time = LongField()


class Idempotency(Document):  # type: ignore[misc]
    """What was stored under an idempotency key."""

    meta = _meta("idempotency", ["until"])
    key = StringField(primary_key=True)
    digest = BinaryField()
    mid = LongField()
    seq = LongField()
    until = LongField()
    v = LongField()


class Members(Document):  # type: ignore[misc]
    """A user takes part in a conversation."""

    meta = _meta("members", ["user", "topic"])
    key = StringField(primary_key=True)
    user = StringField()
    topic = StringField()


class Positions(Document):  # type: ignore[misc]
    """How far a user has read a conversation."""

    meta = _meta("positions")
    key = StringField(primary_key=True)
    user = StringField()
    topic = StringField()
    seq = LongField()
    v = LongField()


class Tokens(Document):  # type: ignore[misc]
    """A bearer token; its secret is not here, only the secret's digest."""

    meta = _meta("tokens", ["digest"], ["user"])
    key = StringField(primary_key=True)
    digest = StringField()
    user = StringField()
    label = StringField()
    created = LongField()
    expires = LongField()
    v = LongField()


class Jobs(Document):  # type: ignore[misc]
    """What is remembered of a job."""

    meta = _meta("jobs")
    key = StringField(primary_key=True)
    schedule = StringField()
    next_run = LongField()
    started = LongField()
    ended = LongField()
    outcome = StringField()
    detail = StringField()
    v = LongField()


class LeaseRecord(Document):  # type: ignore[misc]
    """Who serves the database, and in which process (`storage.mongo.process`).

    ``done``: every message with an id up to it has its fan-out finished. ``late``: what may still come of earlier holders (see
    `storage.mongo.watches`); ``settled`` 1: nothing, from the one that gave the lease back.

    Or what a writer without a lease is storing: ids, publishers, and where the inboxes ended before.
    """

    meta = _meta("lease")
    key = StringField(primary_key=True)
    owner = StringField()
    process = StringField()
    token = LongField()
    shared = LongField()
    beat = LongField()
    ttl = LongField()
    expires_at = LongField()
    done = LongField()
    late = ListField(ListField())
    settled = IntField()
    mids = ListField(LongField())
    publishers = ListField(StringField())
    heads = ListField(ListField())


class Meta(Document):  # type: ignore[misc]
    """``schema``: the version; ``heads``: the last id that retention may have removed; ``prune…``: a removal under way."""

    meta = _meta("meta")
    key = StringField(primary_key=True)
    version = LongField()
    last_id = LongField()
    kind = StringField()
    name = StringField()
    through = LongField()


class Collections(NamedTuple):
    """The raw collections of one database, by what they hold."""

    store: Collection
    sync: Collection
    devices: Collection
    subscriptions: Collection
    retained: Collection
    conversations: Collection
    users: Collection
    idempotency: Collection
    members: Collection
    positions: Collection
    tokens: Collection
    jobs: Collection
    lease: Collection
    meta: Collection


_DECLARED = (
    Store,
    Sync,
    Devices,
    Subscriptions,
    Retained,
    Conversations,
    Users,
    Idempotency,
    Members,
    Positions,
    Tokens,
    Jobs,
    LeaseRecord,
    Meta,
)


class Bound(NamedTuple):
    """The documents attached to a connection, and their collections."""

    documents: tuple[Any, ...]
    collections: Collections

    async def ensure_indexes(self) -> None:
        """Create the indexes that are missing."""
        for document in self.documents:
            await document.ensure_indexes()


def bind(alias: str) -> Bound:
    """Attach the documents to the connection that is registered as ``alias``."""
    documents = tuple(type(d.__name__, (d,), {"meta": {"db_alias": alias}, "__module__": __name__}) for d in _DECLARED)
    return Bound(documents, Collections(*(cast(Any, d)._get_collection() for d in documents)))


def timeline_key(name: str, seq: int) -> str:
    """The ``_id`` of an entry of a timeline."""
    return f"{name}\0{seq:016d}"


def pair_key(user: str, name: str) -> str:
    """The ``_id`` of what belongs to a user and a name: a device, an idempotency key, a conversation."""
    return f"{user}\0{name}"
