"""What storage keeps: the records, and the operations of one group commit.

Shared by every backend, the broker and the plugins; no I/O here.

Names of timelines. A *user key* names an inbox: ``u/<user name>`` for a verified user, ``c/<client id>`` for an
anonymous client, ``s/<share name>/<filter>`` for a shared subscription group, ``r/<filter>`` for a channel, which many users
share. The prefixes keep them apart.
Times are integers, milliseconds since the Unix epoch. Sequences start at 1; 0 means "before the first".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from storage.changes import Change
from storage.messages import EXPIRES_AT_ONCE as EXPIRES_AT_ONCE
from storage.messages import Append as Append
from storage.messages import DeviceKey as DeviceKey
from storage.messages import InboxEntry as InboxEntry
from storage.messages import Message as Message
from storage.messages import Subscription as Subscription
from storage.rows import MAX_ROW as MAX_ROW
from storage.rows import MAX_ROW_NAME as MAX_ROW_NAME
from storage.rows import DropRow as DropRow
from storage.rows import PutRow as PutRow
from storage.rows import Row as Row
from storage.rows import RowKey as RowKey
from storage.settings import MAX_SETTING as MAX_SETTING
from storage.settings import DropSetting as DropSetting
from storage.settings import DropTokens as DropTokens
from storage.settings import SaveSetting as SaveSetting
from storage.settings import SaveToken as SaveToken
from storage.settings import Setting as Setting
from storage.settings import Token as Token

NEVER = 0xFFFFFFFF
"""A session expiry interval that never ends (MQTT 5, 3.1.2.11.2); also what a 3.1.1 durable session gets."""


class InflightState(IntEnum):
    """Where an outgoing message stands in its handshake."""

    PUBLISHED_1 = 1  # QoS 1 PUBLISH sent, PUBACK awaited
    PUBLISHED_2 = 2  # QoS 2 PUBLISH sent, PUBREC awaited
    RELEASED = 3  # PUBREL sent, PUBCOMP awaited


class Inflight(NamedTuple):
    """One outgoing message that its device has not finished. ``timeline`` is empty for the device's own inbox."""

    packet_id: int
    seq: int
    state: InflightState
    timeline: str = ""


@dataclass(slots=True)
class Device:
    """The durable half of a session.

    ``offset``: every inbox entry up to it is done. ``cursor``: the highest entry that was looked at; between the two,
    ``inflight`` lists what is not done. ``received`` holds the packet ids of inbound QoS 2 messages that are stored and
    not yet released. ``expires_at`` is 0 while the device is connected or its session never ends. ``will`` is the
    broker's encoding of the will to publish, or None; ``will_at`` is when it is due once the device is gone (0: not
    disconnected, or at once).
    """

    key: DeviceKey
    epoch: int = 0
    expiry: int = NEVER
    expires_at: int = 0
    created_at: int = 0
    offset: int = 0
    cursor: int = 0
    inflight: list[Inflight] = field(default_factory=list)
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    received: set[int] = field(default_factory=set)
    will: bytes | None = None
    will_at: int = 0
    node: int = 0
    """In a cluster: the token of the node that has its connection; 0 where none has."""
    restored: bool = False
    """It came with a restored copy of the data, and has not opened its session since: its client may be ahead of it. Nothing is
    in flight then, and `epoch` is above all that the copy, or what came after it, ever gave."""

    def undated(self, now: int) -> bool:
        """Whether a start must look at its deadlines: see `storage.interface.DeviceIndex.undated`."""
        ends = self.expiry != NEVER and (not self.expires_at or self.expires_at > now + self.expiry * 1000)
        return self.will is not None or ends


ANY_EPOCH = 1 << 62
"""The epoch of what counts whatever the device's is: of the group of a shared subscription in a cluster."""

# --- the operations of a group, applied in order -------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class OpenSession:
    """A durable session, or a clean one with a will, begins a new connection.

    Creates the device where it is missing; ``clean`` first removes all that is left of an earlier one. A new device
    gets ``offset`` = ``cursor`` = the position that ``start`` names: ``latest`` (the inbox head), ``earliest``
    (before the first kept entry), ``last:<n>`` entries, or ``since:<time>`` (entries of that time or later; found by halving,
    so exact where times rise along the inbox). See `Start`. An epoch older than the device's changes nothing.

    ``shared``, in a cluster: the group of a shared subscription, of which no node has a connection, and which several may open
    at once. Its epoch rises above what it was, to ``epoch`` at least, so that who wants to delete it as it was is told.

    Filled by commit: ``head`` (the inbox head at this place in the group), ``offset``, ``created``; in a cluster ``overtaken``,
    the will of a connection that another node opened at the same moment: due, unless delayed while it was not ``created``.
    """

    device: DeviceKey
    epoch: int
    clean: bool
    expiry: int
    will: bytes | None = None
    start: str = "latest"
    at: int = 0
    head: int = 0
    offset: int = 0
    created: bool = False
    error: Exception | None = None
    shared: bool = False
    overtaken: bytes | None = None


@dataclass(slots=True, eq=False)
class CloseSession:
    """The connection of an epoch ended. An operation of an older epoch than the device's changes nothing.

    ``delete`` removes the device and all its state. Otherwise ``expires_at`` (0: never), ``expiry``, ``will`` and
    ``will_at`` are kept as given.
    """

    device: DeviceKey
    epoch: int
    delete: bool
    expiry: int = NEVER
    expires_at: int = 0
    will: bytes | None = None
    will_at: int = 0
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class Subscribe:
    """Add or replace subscriptions of a device.

    A filter that the session has keeps its ``since``; a new one gets the inbox head at this place in the group, unless
    its ``since`` was given as a number >= 0 (-1 asks for the head). ``retained`` messages get inbox entries for this
    device alone, right after that head, in order.

    Filled by commit: each subscription's ``since``, and ``retained_seqs`` (parallel to ``retained``). For a device that is
    not kept, or of an older epoch, nothing is stored; ``since`` is filled all the same.
    """

    device: DeviceKey
    epoch: int
    subscriptions: Sequence[Subscription]
    retained: Sequence[Message] = ()
    retained_seqs: Sequence[int] = ()
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class Unsubscribe:
    """Remove subscriptions of a device; filters that it does not have are passed over."""

    device: DeviceKey
    epoch: int
    filters: Sequence[str]
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class Progress:
    """A device's offset, cursor and in-flight list, replacing what was stored; ignored for an older epoch."""

    device: DeviceKey
    epoch: int
    offset: int
    cursor: int
    inflight: Sequence[Inflight]
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class Release:
    """PUBREL for an inbound QoS 2 message: forget its packet id."""

    device: DeviceKey
    packet_id: int
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class Join:
    """Remember that users take part in conversations: (user key, topic) of who published there or got an entry from it.

    Pairs that are known are passed over. Sequences are not looked at.
    """

    pairs: Sequence[tuple[str, str]]
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class MarkRead:
    """Move a user's read position of a conversation to ``seq``: forward, or with ``back`` anywhere.

    A position never passes the conversation's last sequence at this place in the group.

    Filled by commit: ``position``, where it stands now, and ``last``, the conversation's last sequence.
    """

    user: str
    topic: str
    seq: int
    back: bool = False
    position: int = 0
    last: int = 0
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class DropRetained:
    """Forget retained messages of earlier groups, each (topic, message id); a topic that has another one by now keeps it.

    Their conversations keep them, and `Tail.last_id` does not go back with them.
    """

    messages: Sequence[tuple[str, int]]
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class Announce:
    """Changes that no other operation brings: what a node's clean sessions want, and that it has them. For a cluster only."""

    changes: Sequence[Change]
    error: Exception | None = None


class DataEpoch(NamedTuple):
    """Which copy of the data this is: ``id`` is another one after each restore, ``restored`` when that was (ms, 0: never)."""

    id: str
    restored: int = 0


class JobState(NamedTuple):
    """What is remembered of a job. Times are ms, 0 is never.

    ``next_run`` was reckoned from ``schedule``. ``started``, ``ended`` and ``outcome`` are of the last run, or of the one under
    way, which has ``ended`` 0; ``detail`` is what the run has to tell, as a JSON object.
    """

    name: str
    schedule: str = ""
    next_run: int = 0
    started: int = 0
    ended: int = 0
    outcome: str = ""
    detail: str = "{}"


@dataclass(slots=True, eq=False)
class SaveJob:
    """Remember a job's state in place of what was known of it."""

    job: JobState
    error: Exception | None = None


# An operation whose ``error`` is set before the commit is passed over. One for a device that is not kept changes nothing.
Operation = (
    Append
    | OpenSession
    | CloseSession
    | Subscribe
    | Unsubscribe
    | Progress
    | Release
    | Join
    | MarkRead
    | SaveToken
    | DropTokens
    | DropRetained
    | SaveJob
    | SaveSetting
    | DropSetting
    | PutRow
    | DropRow
    | Announce
)
