"""What goes in and out, for validation and for the OpenAPI document.

Over 300 lines: each body and each answer is a few lines here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from plugins.http.docstrings import Documented
from plugins.timelines import Unprocessable

MAX_INT = (1 << 62) - 1
MAX_FILTER = 65535
LONGEST_USER = 65537
"""Characters of a user key: as much as a user name or client id has on the wire, and what says which of the two."""
LONGEST_CLIENT = LONGEST_USER - len("c/")
Sequence = Annotated[int, Field(ge=0, le=MAX_INT)]
Milliseconds = Annotated[int, Field(description="milliseconds since 1970")]


class Body(Documented, BaseModel):
    """A request's body: nothing unknown in it. The fields' docstrings are their documentation, on `/docs` too."""

    model_config = ConfigDict(extra="forbid", strict=True)


Pair = Annotated[list[Annotated[str, Field(max_length=4096)]], Field(min_length=2, max_length=2)]


class NewMessage(Body):
    """A message to publish."""

    payload: Any
    """A string; with `"encoding": "json"` any JSON value."""
    encoding: Literal["text", "json", "base64"] = "text"
    """What `payload` is: the text itself, a JSON value, or base64 of the bytes."""
    content_type: Annotated[str | None, Field(max_length=256)] = None
    """The MQTT 5 content type; `application/json` where `encoding` is json and nothing is said."""
    qos: Annotated[int, Field(ge=0, le=2)] = 1
    """The quality of service that subscribers get at most."""
    retain: bool = False
    """Whether it becomes the topic's retained message."""
    expiry: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] = 0
    """Seconds after which it is no longer delivered or shown; 0 is never."""
    properties: Annotated[list[Pair], Field(max_length=32)] = []
    """MQTT 5 user properties: `[["name", "value"], …]`."""
    mentions: Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=50)] = []
    """User keys, such as `u/alice`: each becomes a user property `mentions`, which conversations with members count."""
    response_topic: Annotated[str | None, Field(min_length=1, max_length=65535)] = None
    """The MQTT 5 response topic: where an answer is expected."""
    correlation_data: Annotated[str | None, Field(max_length=90000)] = None
    """The MQTT 5 correlation data of that answer, base64."""
    receipt: Annotated[list[Literal["delivered", "acknowledged", "read"]], Field(max_length=3)] = []
    """Of which of these states the sender's devices are told, where the plugin `receipts` is on."""


class NewTopicMessage(NewMessage):
    """A message to publish, and to which topic."""

    topic: Annotated[str, Field(min_length=1, max_length=65535)]
    """The topic name."""
    message_id: Annotated[str | None, Field(min_length=1, max_length=255)] = None
    """A name of the caller's for this message: sent again under it, it is stored once. What `Idempotency-Key` says for one."""


class ReadPosition(Body):
    """How far the user has read."""

    position: Sequence
    """The sequence of the last message that was read."""
    back: bool = False
    """Whether it may move back. Without it a late device undoes nothing."""


class OffsetBody(Body):
    """Where a device goes on."""

    offset: Sequence
    """The device gets the inbox entries after this one."""


class AckBody(Body):
    """An acknowledgement: everything up to an offset is done."""

    device: Annotated[str, Field(min_length=1, max_length=1024)]
    """The client id of the device."""
    epoch: Annotated[int, Field(ge=1, le=MAX_INT)]
    """What the call to `/v1/sync` answered."""
    offset: Sequence
    """The last entry that is done: `next` of the page, once its entries are safe."""
    channel: Annotated[str | None, Field(min_length=1, max_length=MAX_FILTER)] = None
    """The channel that the page was of, as its answer names it; without it, the inbox."""
    user: Annotated[str | None, Field(max_length=1024)] = None
    """For operators: whom to act for, u/name or c/client-id."""


class SubscriptionBody(Body):
    """A subscription of a device."""

    filter: Annotated[str, Field(min_length=1, max_length=MAX_FILTER)]
    """An MQTT topic filter."""
    qos: Annotated[int, Field(ge=0, le=2)] = 1
    """The quality of service that the device gets at most."""


class NewToken(Body):
    """A bearer token to make."""

    label: Annotated[str, Field(max_length=200)] = ""
    """What it is for, to tell tokens apart in the list."""
    lifetime: Annotated[int, Field(ge=1, le=10 * 365 * 86400)] = 30 * 86400
    """Seconds until it is refused."""


class Message(BaseModel):
    id: str
    topic: str
    seq: int
    sender: str
    device: str
    time: Milliseconds
    qos: int
    retain: bool
    expires: int | None
    content_type: str | None
    properties: list[list[str]]
    encoding: Literal["text", "json", "base64"]
    payload: Any
    recalled: str | None
    edits: str | None
    edited: str | None
    edited_time: int | None
    versions: int
    reactions: dict[str, int]


class Messages(BaseModel):
    messages: list[Message]
    first: int
    last: int
    next: str | None


class Receipt(BaseModel):
    """``seq`` is 0 where the broker's policy for the topic stores nothing."""

    id: str
    topic: str
    seq: int
    time: int | None
    state: Literal["stored", "pending"] = "stored"


class ProblemDocument(BaseModel):
    type: str
    title: str
    status: int
    detail: str


class Outcome(BaseModel):
    """What came of one message of a list: ``status`` is what it alone would have been answered with. The rest is its receipt,
    or, where it was refused, ``error``."""

    status: int
    id: str | None = None
    topic: str | None = None
    seq: int | None = None
    time: int | None = None
    state: Literal["stored", "pending"] | None = None
    error: ProblemDocument | None = None


class Client(BaseModel):
    """A client that is connected, or a durable session that waits for one. What only its connection has is null without one;
    ``since`` is when it was let in, ``lag`` how many entries of its inbox it has not acknowledged."""

    user: str
    client: str
    connected: bool
    durable: bool
    subscriptions: int
    address: str | None
    listener: str | None
    protocol: Literal["3.1", "3.1.1", "5"] | None
    keep_alive: int | None
    since: int | None
    inflight_in: int | None
    inflight_out: int | None
    offset: int | None
    lag: int | None
    expires_at: int | None


class Clients(BaseModel):
    """``silent`` are nodes of the cluster that did not answer: what they have is missing."""

    clients: list[Client]
    next: str | None
    silent: list[str]


class Ended(BaseModel):
    """Whose connections, or sessions, were ended."""

    users: list[str]
    silent: list[str]


class Subscribed(BaseModel):
    user: str
    client: str
    connected: bool
    filter: str
    qos: int


class Subscriptions(BaseModel):
    subscriptions: list[Subscribed]
    next: str | None
    silent: list[str]


class RetainedMessages(BaseModel):
    messages: list[Message]
    next: str | None


class Outcomes(BaseModel):
    results: list[Outcome]


class Conversation(BaseModel):
    topic: str
    first: int
    last: int
    position: int
    unread: int
    last_message: Message | None


class Conversations(BaseModel):
    conversations: list[Conversation]
    next: str | None


class Topic(BaseModel):
    topic: str
    first: int
    last: int
    last_message: Message | None


class TopicLevel(BaseModel):
    """What is right below a prefix: ``levels`` are prefixes to ask for next, and end in a slash."""

    levels: list[str]
    topics: list[Topic]
    next: str | None


class Position(BaseModel):
    topic: str
    position: int
    last: int
    unread: int


class SubscriptionState(BaseModel):
    filter: str
    qos: int
    since: int


class Device(BaseModel):
    device: str
    user: str
    connected: bool
    durable: bool
    offset: int | None
    head: int
    lag: int | None
    expires_at: int | None
    subscriptions: list[SubscriptionState]


class Devices(BaseModel):
    devices: list[Device]
    next: str | None


class Entry(BaseModel):
    offset: int
    message: Message | None


class Channel(BaseModel):
    """What all readers of a large group share (`fanout: read`), and the device's place in it."""

    channel: str
    offset: int
    head: int


class Inbox(BaseModel):
    """Acknowledge ``next`` once the entries are safe. ``epoch`` is null where an MQTT connection has the device.

    ``data_epoch`` names the copy of the data, which an ``after`` that is kept is of. ``channel`` names the channel that was
    read; null for the inbox. ``channels`` are all that the device has a place in.
    """

    device: str
    user: str
    epoch: int | None
    channel: str | None
    offset: int
    entries: list[Entry]
    next: int
    first: int
    head: int
    data_epoch: str
    channels: list[Channel]


class Pointer(BaseModel):
    """An entry of an inbox, and the message of a conversation that it points to: null where that was removed, or may not be
    read."""

    offset: int
    topic: str | None
    seq: int | None


class Pointers(BaseModel):
    """``first`` kept and last (``head``) entry of the inbox, and the entries that were asked for."""

    user: str
    first: int
    head: int
    entries: list[Pointer]


class Offset(BaseModel):
    offset: int


class TokenState(BaseModel):
    id: str
    user: str
    label: str
    created: int
    expires: int


class IssuedToken(TokenState):
    """``token`` is shown this once."""

    token: str


class TokenList(BaseModel):
    tokens: list[TokenState]


class Me(BaseModel):
    user: str
    operator: bool


class ServedCertificate(BaseModel):
    name: str
    what: Literal["certificate", "crl"]
    expires: int


class Health(BaseModel):
    status: Literal["ok", "storage-away", "disk-full", "leaving", "unheard"]
    certificates: list[ServedCertificate] = []
    """What is served by TLS, and when it expires."""


class Hit(BaseModel):
    id: str
    topic: str
    seq: int
    sender: str
    time: int
    payload: Any
    encoding: str
    highlight: str


class Hits(BaseModel):
    """One page. ``total`` is at most 1000; there may be more hits where ``total_exact`` is false."""

    hits: list[Hit]
    total: int
    total_exact: bool
    next: str | None


class Rebuild(BaseModel):
    """A rebuild of the search index. Times are ms; ``ended`` is null while it runs. ``waiting``: what is away, if it waits."""

    state: Literal["running", "done", "failed", "cancelled"]
    messages: int
    fraction: float
    started: int
    ended: int | None
    error: str | None
    waiting: str | None


class IndexState(BaseModel):
    """How far the search index trails the store."""

    lag_messages: int
    lag_milliseconds: int
    position: str
    errors: int
    rebuild: Rebuild | None


def moment(name: str, value: str | None) -> int:
    """Milliseconds from a number of them or an RFC 3339 time; 0 for nothing. Raises `Unprocessable`."""
    if not value:
        return 0
    if value.isascii() and value.isdigit() and len(value) <= 15:
        return int(value)
    try:
        at = datetime.fromisoformat(value)
        if at.tzinfo is None:
            raise ValueError
        return max(0, int(at.timestamp() * 1000))
    except (ValueError, OverflowError):
        raise Unprocessable(f"{name} {value[:40]!r}: must be milliseconds since 1970 or an RFC 3339 time with a zone") from None
