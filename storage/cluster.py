"""What the nodes of a cluster tell each other through the database. `Storage.cluster` is None where a backend serves one node.

Nodes know only the database (docs/decisions/0011). Everything here is durable when it returns, and raises `StorageUnavailable`
where that is not known, `FencedOut` where this node was marked dead.

- *Nodes*: who is there. A node writes a beat; others watch the beats, and mark it dead when none comes.
- *Routes*: one timeline of changes that all nodes read in the same order: who has which filter, and which node
  has which device. `Committer.commit` writes it: additions before anything else of the group, removals after the rest.
- *Lanes*: what one node has for another, in order; one writer each.
- *Leases*: what one node at a time does. A node that is marked dead holds none.
- *SharedInboxes*: which node gives out which entries of a shared subscription's inbox (`storage.shared_inboxes`).

What guards a device. Its epoch rises with each connection, on whichever node; who opens it with an epoch that is not above the
stored one, or writes with one below it, or with the same where another node has the device, gets `Superseded` as its
operation's ``error`` and has changed nothing. So of two nodes that open it at once, both with the next epoch, one is told. An
`Append` with ``received``, and a `Release`, are refused so where another node has the device by now; so is, with them, any
other `Append` of that device in the group (``epoch``): else it would come before what was refused. A device that is missing
is to be opened with the database's clock (`Cluster.time`) as its epoch: what an ended session of the device left on a frozen
node is older, whatever epochs that had.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from storage.changes import ADD as ADD
from storage.changes import ENDED as ENDED
from storage.changes import HELD as HELD
from storage.changes import LISTEN as LISTEN
from storage.changes import REMOVE as REMOVE
from storage.changes import UNLISTEN as UNLISTEN
from storage.changes import Change as Change
from storage.messages import Append, DeviceKey, Message
from storage.shared_inboxes import Division, Exchange, Exchanged

if TYPE_CHECKING:
    from storage.records import CloseSession, Device

FEATURES = 1
"""What this version of the code can read and write. A new format is written once every node has its level."""

UP = "up"
DEAD = "dead"
GONE = "gone"
"""States of a node: it serves; it was marked dead, and is not settled yet; it left, or it was settled."""


class Node(NamedTuple):
    """A node as it stands in the database. Times are ms of the database's clock.

    ``number`` is part of the ids of its messages, 0 to 1023. ``token`` names this start of it, unique for ever and rising:
    lanes, leases, routes and `Device.node` name nodes by it. ``beat`` counts its beats; ``seen`` is when the last one was, for
    people to look at. ``done``: every message of its own with an id up to it has its inbox entries, and its parcels are sent.
    ``routes``: the changes that it has applied. ``asked``: what an operator asked of it, ``leave`` or nothing.
    """

    number: int
    token: int
    name: str
    state: str = UP
    beat: int = 0
    seen: int = 0
    done: int = 0
    routes: int = 0
    sessions: int = 0
    features: int = FEATURES
    started: int = 0
    asked: str = ""


NUMBERS = 1 << 10
NUMBER_RESTS_MS = 6 * 3_600_000
"""How long nobody gets the number of a node that was marked dead, in ms: it may be frozen, and wake."""
_NUMBER_SHIFT = 12


def number_of(message_id: int) -> int:
    """The number of the node that gave an id: the ten bits above the lowest twelve (`broker.ids`)."""
    return message_id >> _NUMBER_SHIFT & NUMBERS - 1


# --- routes --------------------------------------------------------------------------------------------------------


class Route(NamedTuple):
    """One entry of the routes: the changes of one group of the node ``writer`` (its token)."""

    seq: int
    writer: int
    changes: Sequence[Change]


# --- lanes ---------------------------------------------------------------------------------------------------------


class Wake(NamedTuple):
    """An inbox has an entry for whom the receiver has connected. ``message`` None: it is to be read from the inbox."""

    user: str
    seq: int
    message: Message | None
    target: str = ""


class Note(NamedTuple):
    """Something that a node asks of another, or answers: ``id`` pairs the two. ``body`` is plain values: str, int, bytes,
    list, dict."""

    kind: str
    id: int
    body: Mapping[str, Any]


@dataclass(slots=True)
class Parcel:
    """What one group, or one request, of a node has for another. ``sender``: its token, and ``number``, -1 of a version that
    does not tell it, filled by storage.

    ``live``: messages for clean sessions, in commit order; the sender's own by rising id, and among them some of other nodes
    that it tells for those. ``transient``: those that no inbox holds, the same way.
    """

    wakes: list[Wake] = field(default_factory=list)
    live: list[Message] = field(default_factory=list)
    transient: list[Message] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    sender: int = 0
    number: int = -1


class Finished(NamedTuple):
    """What was half done of a dead node: how many inbox entries were missing, and who was due any of its last messages: (user,
    where the inbox ends). ``untold``: (id, topic) of the messages that it may have told nobody of, in the order of groups."""

    entries: int
    heads: Sequence[tuple[str, int]]
    untold: Sequence[tuple[int, str]] = ()


@runtime_checkable
class Joins(Protocol):
    """A storage that joins a cluster when it is opened."""

    cluster_settings: Mapping[str, str]
    """What must be alike on all nodes, by name: set by the broker before it opens the storage. `open` raises `StorageUnusable`
    where a node that is up has another value. A name that only one of them has says nothing, as while versions change."""


class SharedInboxes(Protocol):
    """How the nodes divide the inboxes of shared subscriptions among them: each call as one step, whatever others do."""

    async def exchange(self, inbox: str, request: Exchange) -> Exchanged:
        """Tell what this node has of an inbox no more, and claim what it wants: see `storage.shared_inboxes`."""

    async def settle(self, inbox: str, entries: Sequence[int]) -> None:
        """These are done, whoever had claimed them."""

    async def release(self, inbox: str, token: int, held: Sequence[int], done: Sequence[int]) -> None:
        """A node is gone: others may have what it had claimed, but for what devices ``held`` at QoS 2, and what is ``done``."""

    async def divided(self) -> list[tuple[str, Division]]:
        """All inboxes of which anything was ever claimed, with what is claimed by whom."""

    async def forget(self, inbox: str, since: int) -> None:
        """The group that began at ``since`` has ended."""


class Cluster(Protocol):
    """One node's part in the cluster, from `Storage.open` to `Storage.close`."""

    @property
    def shared_inboxes(self) -> SharedInboxes:
        """How the inboxes of shared subscriptions are divided."""

    @property
    def me(self) -> Node:
        """This node, as it joined."""

    @property
    def lease_seconds(self) -> float:
        """Seconds without a beat after which a node counts as dead. The same for all nodes."""

    rematch: Callable[[Sequence[Append]], Awaitable[None]] | None
    """Set by the broker. A commit calls it for the messages that it retains, once those are in the store and in `retained` and
    before their inbox entries: it probes the routes, and replaces the `Append.recipients` of those that match more by now."""

    forwarded: bool
    """Set by the broker: False while it stores messages, until the other nodes are told. A node that is closed so counts as
    dead and not as gone, and the others finish its last group."""

    # nodes

    async def beat(self, *, done: int, routes: int, sessions: int) -> Node:
        """Say that this node lives, and how far it is: see `Node`. It comes back as it stands now, with what was ``asked``.

        Storage beats by itself too, eight times in a lease, with what it was told last; ``done`` never goes back. Raises
        `FencedOut` where this node was marked dead.
        """

    async def nodes(self) -> list[Node]:
        """Every node that is up, or dead and not settled, by number."""

    async def time(self) -> int:
        """The database's clock, ms: deadlines go by it."""

    async def mark_dead(self, seen: Node) -> bool:
        """Mark a node dead whose beat is still the one that was seen; False where it beat since, or another was faster."""

    async def finish(self, token: int) -> Finished:
        """Complete what a node stored and did not fan out, from its `Node.done` on. May be repeated, by several at once; also
        while that node is only suspected.

        Everybody who is due any of it is to be woken, also where nothing was missing, and the clean sessions of all nodes are
        to be told: its parcels may not have been sent.
        """

    def held(self, token: int) -> AsyncIterator[list[DeviceKey]]:
        """The devices that are stored as connected to a node, in pages."""

    async def take(self, key: DeviceKey, holder: int, end: Callable[[Device], CloseSession]) -> Device | None:
        """Take a device from a node that is silent or dead: nobody has it, an epoch later, and it is disconnected as ``end``
        says of the device as it stands. All of that or nothing: who asks may die at any moment, and ask again.

        What the holder still writes of it is superseded. The device as it stands then; None where the holder has it no more.

        The routes are not told: who opens the device next does that, and a node that is settled has none.
        """

    async def settle(self, token: int) -> None:
        """A dead node's affairs are in order: it is `GONE`, without lanes and leases; its number is free after hours."""

    async def ask(self, token: int, what: str) -> bool:
        """Leave a wish with a node, such as ``leave``; False where there is no such node."""

    async def settings_mark(self) -> tuple[int, int]:
        """Which group last began to change stored settings, on whatever node, and which last had: both are others after each
        change. While they differ one may be under way, or its node died in it. Cheap: to be asked twice a second."""

    # routes

    async def routes_end(self) -> tuple[int, int]:
        """(the oldest kept sequence, the last one) of the routes; (1, 0) where there never was a change."""

    async def routes_after(self, after: int, limit: int = 1000) -> list[Route]:
        """The next changes, by sequence. Linearizable: whatever was acknowledged before the call is in it.

        Raises `FencedOut` where some of them were removed: this node was away for too long, and must start anew.
        """

    async def trim_routes(self, before: int) -> int:
        """Remove entries below a sequence; how many were removed.

        Kept are those of the last several leases, what a node that is up has not said to have applied (`Node.routes`), and the
        last one.
        """

    # lanes

    async def send(self, parcels: Mapping[int, Parcel]) -> None:
        """Append to the lanes of nodes, by token. For a node that is gone it does nothing."""

    async def receive(self, wait: float) -> list[Parcel]:
        """What has come since the last call, in each sender's order; empty after ``wait`` seconds without any. What an earlier
        call gave is removed; a call that raised gave nothing."""

    # leases

    async def lease(self, name: str) -> bool:
        """Take or keep a lease; False where a node that is up has it."""

    async def release(self, name: str) -> None:
        """Give a lease back."""
