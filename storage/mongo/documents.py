"""The collections, their fields and their indexes, as mongomotor documents.

They are the schema: `bind` gives a database's raw asynchronous collections, which do all the work (an ODM save costs sixty
times a raw insert). A timeline's key is ``<name>\\0<sequence, 16 digits>``: no name holds U+0000.
All times are integers, milliseconds since the Unix epoch. ``v`` is the version of the group that wrote a document: its node's
token in the high bits, a counter below, so that no two groups have one.

What is written again and again has a guard, so that a write that comes late changes nothing: see `storage.mongo.writes`.

Over 300 lines: the schema is read in one place.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from mongomotor import Document
from mongomotor.fields import BinaryField, BooleanField, IntField, ListField, LongField, StringField
from pymongo import IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from storage.rows import RowKey

_BY_ID = "mid_1"
TOKEN_SHIFT = 40
"""A version's bits below the token."""

Raw = dict[str, Any]
Collection = AsyncCollection[Raw]
Database = AsyncDatabase[Raw]


def _meta(collection: str, *indexes: object) -> Raw:
    return {"collection": collection, "auto_create_index": False, "indexes": list(indexes)}


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
    """One message of a conversation, with what another node needs to finish its fan-out.

    ``writer`` is the number of the node whose id it has: each node's messages are a tail of their own. ``places``: for each
    recipient, 8 bytes, a sequence that its inbox had not reached before the message was stored.
    """

    meta = _meta("store", ["topic", "seq"], ["writer", "mid"])  # and one of ``mid``: `Bound.ensure_indexes`
    key = StringField(primary_key=True)
    writer = IntField()
    recipients = ListField(StringField())
    places = BinaryField()
    keep = BooleanField()
    """It replaces the topic's retained message."""
    received = ListField()
    """Inbound QoS 2: user key, client id, packet id."""
    once = StringField()
    """The idempotency key's document, and until when it holds."""
    once_until = LongField()
    once_content = BinaryField()
    """The digest of what its publisher sent, where that is another than the message's."""
    recalls = ListField(LongField())
    """The messages that it takes the content out of."""
    rows = ListField()
    """What is written for it: table, part and key of a row, its revisions before and after, its value or nothing."""


class Sync(Document):  # type: ignore[misc]
    """One entry of an inbox. ``size`` is the payload's, so that a page can be cut before its messages are fetched.

    ``turns``: where several nodes write to it, the order of them (`storage.mongo.turns`).
    """

    meta = _meta("sync", ["user", "seq"])
    key = StringField(primary_key=True)
    user = StringField()
    seq = LongField()
    mid = LongField()
    size = LongField()
    time = LongField()
    target = StringField()
    turns = BinaryField()


class Devices(Document):  # type: ignore[misc]
    """One device. ``generation`` is the version that created it: subscriptions of another generation are not its.

    ``revision`` rises with every write, and each write names the one that it saw, so that of two writers one is told.
    ``gone`` 1 marks one that was deleted, at ``gone_at``: it is there for what may still come, and for nobody else.
    """

    meta = _meta("devices", ["client", "user"], ["expires_at"], ["will_at"], ["node"], {"fields": ["gone_at"], "sparse": True})
    key = StringField(primary_key=True)
    revision = LongField()
    node = LongField()
    gone = IntField()
    gone_at = LongField()
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
    """One subscription of a device. ``revision``: the device's with which it was written; ``gone`` 1: it was removed."""

    meta = _meta("subscriptions", ["user", "client"], {"fields": ["gone_at"], "sparse": True})
    key = StringField(primary_key=True)
    revision = LongField()
    gone = IntField()
    gone_at = LongField()
    user = StringField()
    client = StringField()
    generation = LongField()
    filter = StringField()
    options = IntField()
    identifier = LongField()
    since = LongField()
    v = LongField()


class Retained(Published):
    """A topic's retained message, whole, as retention may remove it from the store. ``gone`` 1 marks one that was cleared, at
    ``gone_at``."""

    meta = _meta("retained", ["mid"], ["expires", "mid"], {"fields": ["gone_at"], "sparse": True})
    key = StringField(primary_key=True)
    gone = IntField()
    gone_at = LongField()


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
    """What is stored under an idempotency key, from before it is stored. ``done`` 1: it is, and in every inbox."""

    meta = _meta("idempotency", ["until"])
    key = StringField(primary_key=True)
    digest = BinaryField()
    mid = LongField()
    seq = LongField()
    until = LongField()
    done = IntField()
    v = LongField()


class Claims(Document):  # type: ignore[misc]
    """A packet id of a device's inbound QoS 2, from before its message is stored: which message that is, and what it says.

    ``epoch`` is the device's; ``released`` 1: the packet id is free again.
    """

    meta = _meta("claims", ["claimed_at"])
    key = StringField(primary_key=True)
    mid = LongField()
    digest = BinaryField()
    generation = LongField()
    epoch = LongField()
    released = IntField()
    claimed_at = LongField()


class Announced(Document):  # type: ignore[misc]
    """What another node could not see of a node's group if that died in it; the ``_id`` is the node's token.

    ``changes``: what it tells the routes last. ``adopted``: messages that it stores for another node, under their ids, in the
    order of the group; ``before``: for each the next message of the group that has an id of its own, 0 for none. Where the
    changes are too many, there are ``parts`` more documents with the rest of them: ``<token> 1`` and so on.
    """

    meta = _meta("announced")
    key = StringField(primary_key=True)
    changes = ListField(ListField())
    adopted = ListField(LongField())
    before = ListField(LongField())
    parts = IntField()


class Late(Document):  # type: ignore[misc]
    """A message that was stored under another node's id, by when that was: see `storage.mongo.late`. The ``_id`` is ``seq``, 16
    digits; ``at``: the database's time."""

    meta = _meta("late", ["seq"], ["mid"], ["at"])
    key = StringField(primary_key=True)
    seq = LongField()
    mid = LongField()
    at = LongField()


class Members(Document):  # type: ignore[misc]
    """A user takes part in a conversation."""

    meta = _meta("members", ["topic", "user"])
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


class StoredSettings(Document):  # type: ignore[misc]
    """What an administrator keeps: a user, a rule."""

    meta = _meta("settings")
    key = StringField(primary_key=True)
    kind = StringField()
    name = StringField()
    value = BinaryField()
    v = LongField()


class StoredRows(Document):  # type: ignore[misc]
    """A row that a plugin keeps. ``recent``: the versions of the groups that wrote it last. ``gone`` 1 marks one that was
    dropped, at ``gone_at``."""

    meta = _meta("rows", ["table", "part", "gone", "name"], {"fields": ["gone_at"], "sparse": True})
    key = StringField(primary_key=True)
    table = StringField()
    part = StringField()
    name = StringField()
    revision = LongField()
    value = BinaryField()
    recent = ListField(LongField())
    gone = IntField()
    gone_at = LongField()
    v = LongField()


class LeaseRecord(Document):  # type: ignore[misc]
    """Who serves the database, and in which process (`storage.mongo.process`).

    ``done``: every message with an id up to it has its fan-out finished. ``settled`` 1: the lease was given back.

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


class Nodes(Document):  # type: ignore[misc]
    """A node of the cluster, from its join on: see `storage.cluster.Node`. The ``_id`` is its token, 16 digits.

    ``ended``: when it was settled, 0 for one that left in order; ``settings``: what must be alike on all nodes, as JSON;
    ``mark``: what the last beat left, another one each time.
    """

    meta = _meta("nodes")
    mark = StringField()
    key = StringField(primary_key=True)
    number = LongField()
    token = LongField()
    name = StringField()
    process = StringField()
    state = StringField()
    beat = LongField()
    seen = LongField()
    done = LongField()
    routes = LongField()
    sessions = LongField()
    features = LongField()
    started = LongField()
    ended = LongField()
    asked = StringField()
    settings = StringField()


class Routes(Document):  # type: ignore[misc]
    """Changes of who is to get what, those of one group of a node. The ``_id`` is the sequence, 16 digits.

    ``mark`` names the append that made it; ``at`` is when that was.
    """

    meta = _meta("routes", ["seq"])
    key = StringField(primary_key=True)
    seq = LongField()
    at = LongField()
    writer = LongField()
    mark = StringField()
    changes = ListField(ListField())


class Lanes(Document):  # type: ignore[misc]
    """What one node has for another: the ``seq``-th entry of this sender and receiver (tokens).

    A parcel of `storage.mongo.parcels`, or the ``part``-th of its ``parts``; ``parcel`` tells the parts of two apart.
    """

    meta = _meta("lanes", ["receiver", "sender", "seq"])
    key = StringField(primary_key=True)
    receiver = LongField()
    sender = LongField()
    seq = LongField()
    body = BinaryField()
    part = IntField()
    parts = IntField()
    parcel = StringField()


class Leases(Document):  # type: ignore[misc]
    """What one node at a time does, and the token of the node that does it. It counts while that node is up."""

    meta = _meta("leases")
    key = StringField(primary_key=True)
    holder = LongField()


class Divisions(Document):  # type: ignore[misc]
    """How the inbox of a shared subscription is divided among nodes: see `storage.shared_inboxes`. The ``_id`` is the inbox.

    ``free``: [first, last] of each stretch; ``claimed`` and ``refused``: [the node's token, first, last]. ``mark`` is another
    after each write.
    """

    meta = _meta("divisions")
    key = StringField(primary_key=True)
    since = LongField()
    next = LongField()
    free = ListField(ListField())
    claimed = ListField(ListField())
    held = ListField(LongField())
    refused = ListField(ListField())
    mark = StringField()


class Meta(Document):  # type: ignore[misc]
    """``schema``: the version; ``heads…``: see `last_id_key`; ``prune…``: a removal under way; ``epoch``: which copy of the
    data it is, and when it was restored; ``import``: an import that has begun and not ended, and the process that makes it;
    ``settings``: the versions of the group that last began to change settings, and of the one that last had."""

    meta = _meta("meta")
    key = StringField(primary_key=True)
    version = LongField()
    last_id = LongField()
    kind = StringField()
    name = StringField()
    through = LongField()
    epoch = StringField()
    restored = LongField()
    process = StringField()
    changing = LongField()
    changed = LongField()
    v = LongField()


SETTINGS = "settings"
"""The document of `Meta` that says when settings were changed."""


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
    claims: Collection
    announced: Collection
    late: Collection
    members: Collection
    positions: Collection
    tokens: Collection
    jobs: Collection
    settings: Collection
    rows: Collection
    lease: Collection
    nodes: Collection
    routes: Collection
    lanes: Collection
    leases: Collection
    divisions: Collection
    meta: Collection


DOCUMENTS: tuple[Any, ...] = (
    Store,
    Sync,
    Devices,
    Subscriptions,
    Retained,
    Conversations,
    Users,
    Idempotency,
    Claims,
    Announced,
    Late,
    Members,
    Positions,
    Tokens,
    Jobs,
    StoredSettings,
    StoredRows,
    LeaseRecord,
    Nodes,
    Routes,
    Lanes,
    Leases,
    Divisions,
    Meta,
)
"""The declarations, in the order of `Collections`."""


class Bound(NamedTuple):
    """The collections of one database, as the documents declare them."""

    collections: Collections

    async def ensure_indexes(self, *, sharded: bool) -> None:
        """Create the indexes that are missing.

        ``sharded``: the database is reached through a mongos, and may be sharded. A unique index would have to begin with the
        shard key there, so that message ids have one that is not. Nothing rests on it: `storage.mongo.load.find_stored`.
        """
        for document, collection in zip(DOCUMENTS, self.collections, strict=True):
            if indexes := [IndexModel(spec["fields"], **_options(spec)) for spec in document._meta["index_specs"]]:
                await collection.create_indexes(indexes)  # one command; mongomotor's own method makes one for each
        known = await self.unique_ids()
        if known and sharded:
            await self.collections.store.drop_index(_BY_ID)
        if known is None or (known and sharded):
            await self.collections.store.create_index("mid", name=_BY_ID, unique=not sharded)

    async def unique_ids(self) -> bool | None:
        """Whether the index of message ids is unique; None where there is none."""
        for index in (await self.collections.store.index_information()).values():
            if list(index["key"]) == [("mid", 1)]:  # not by its name, which some servers give themselves
                return bool(index.get("unique"))
        return None


def bind(database: Database) -> Bound:
    """The collections of a database."""
    return Bound(Collections(*(database[document._meta["collection"]] for document in DOCUMENTS)))


def _options(spec: Raw) -> Raw:
    return {name: value for name, value in spec.items() if name != "fields"}


def timeline_key(name: str, seq: int) -> str:
    """The ``_id`` of an entry of a timeline: the name, U+0000, and 16 digits. A format takes twice as long."""
    digits = str(seq)
    return name + _BEFORE[len(digits)] + digits


_BEFORE = tuple("\0" + "0" * (16 - length) for length in range(17))


def pair_key(user: str, name: str) -> str:
    """The ``_id`` of what belongs to a user and a name: a device, an idempotency key, a conversation."""
    return f"{user}\0{name}"


def row_id(key: RowKey) -> str:
    """The ``_id`` of a row."""
    return "\0".join(key)


def row_fields(key: RowKey) -> Raw:
    """The fields of a row that its ``_id`` is made of."""
    return {"table": key.table, "part": key.part, "name": key.key}


def last_id_key(number: int) -> str:
    """Which document of ``meta`` has the highest id of a node's number that may be in the store no longer, or never was."""
    return f"heads {number}" if number else "heads"
