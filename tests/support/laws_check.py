"""The laws, checked on what a database holds and what clients were told. Each function is one promise of DESIGN.md."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from broker.ledger import place, stored_standing
from broker.packets.topics import matches
from storage.cluster import number_of
from storage.errors import StorageUnavailable
from storage.factory import open_url
from storage.interface import Catalogue, Storage
from storage.records import Device as StoredDevice
from storage.records import InboxEntry, Message
from tests.support.laws_clients import PublisherRecord, Pulse, Receipt, Recorder
from tests.support.until import until

SECOND = 1.0
"""How late an offset may be."""
PAGE = 500


@dataclass
class Stored:
    """Everything that a database holds."""

    conversations: dict[str, list[Message]] = field(default_factory=dict)
    inboxes: dict[str, list[InboxEntry]] = field(default_factory=dict)
    devices: dict[tuple[str, str], StoredDevice] = field(default_factory=dict)

    def copies(self) -> Counter[str]:
        """How often each payload is in the conversations."""
        return Counter(message.payload.decode() for messages in self.conversations.values() for message in messages)

    def due(self, device: Recorder, user: str = "") -> list[InboxEntry]:
        """The entries of the device's inbox that its filters want, in order."""
        entries = self.inboxes.get(user or f"u/{device.user}", [])
        return [e for e in entries if e.message is not None and any(matches(f, e.message.topic) for f in device.filters)]


def read_all(url: str, page: int = PAGE) -> Stored:
    """Read a database that no broker serves any more, in pages of so many: fewer where messages are large."""
    return asyncio.run(_read(url, page))


def read_devices(url: str) -> dict[tuple[str, str], StoredDevice]:
    """The devices of a database, by user key and client id."""
    return asyncio.run(_read(url, 0)).devices


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[Storage]:
    """A database to be read. On a busy machine the driver may find no server in time, and is asked again."""
    storage = open_url(url, read_only=True)

    async def opens() -> bool:
        try:
            await storage.open()
        except StorageUnavailable:
            return False
        return True

    await until(opens, "the database is open")
    try:
        yield storage
    finally:
        await storage.close()


async def _read(url: str, page: int) -> Stored:
    stored = Stored()
    async with reading(url) as storage:
        async for device in storage.devices():
            stored.devices[device.key] = device
        if not page:
            return stored
        assert isinstance(storage, Catalogue)
        async for topic, _, _ in storage.conversations():
            kept = stored.conversations[topic] = []
            while read := await storage.read_conversation(topic, after=kept[-1].seq if kept else 0, limit=page):
                kept += read
        async for user, _, _ in storage.inboxes():
            entries = stored.inboxes[user] = []
            while found := await storage.read_inbox(user, entries[-1].seq if entries else 0, page):
                entries += found
    return stored


# --- what is stored ------------------------------------------------------------------------------------------------


def timelines_are_whole(stored: Stored) -> None:
    """Law 2: sequences are 1..N; time never goes back within a conversation, and an inbox has no message twice."""
    for topic, messages in stored.conversations.items():
        assert [message.seq for message in messages] == list(range(1, len(messages) + 1)), topic
        times = [message.time for message in messages]
        assert times == sorted(times), topic
    for user, entries in stored.inboxes.items():
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1)), user
        ids = [entry.message.id for entry in entries if entry.message is not None]
        assert len(ids) == len(entries), f"{user}: an entry has lost its message"
        assert len(set(ids)) == len(ids), f"{user}: a message is in the inbox twice"


def acknowledged_are_stored(stored: Stored, publishers: Iterable[PublisherRecord]) -> None:
    """Law 1: what was acknowledged is in its conversation, and nothing is there that nobody published."""
    published = {sent.payload: sent for publisher in publishers for sent in publisher.sent.values()}
    found: set[str] = set()
    for topic, messages in stored.conversations.items():
        for message in messages:
            payload = message.payload.decode()
            if payload.startswith("will:"):
                continue
            assert payload in published, f"{topic}: nobody published {payload!r}"
            assert (published[payload].topic, published[payload].qos) == (topic, message.qos)
            found.add(payload)
    missing = [sent.payload for sent in published.values() if sent.acked and sent.payload not in found]
    assert missing == [], f"{len(missing)} acknowledged messages are not stored: {missing[:10]}"


def surplus_is_bounded(stored: Stored, publishers: Iterable[PublisherRecord]) -> None:
    """QoS 2 and named messages are stored once; QoS 1 once more, at most, for each connection that ended before its ack."""
    copies = stored.copies()
    for publisher in publishers:
        for sent in publisher.sent.values():
            allowed = 1 if sent.qos != 1 or publisher.plan.named else 1 + sent.risks
            assert copies[sent.payload] <= allowed, f"{sent.payload} (QoS {sent.qos}) is stored {copies[sent.payload]} times"


def publishers_are_in_order(stored: Stored, publishers: Iterable[PublisherRecord]) -> None:
    """Law 4: each publisher's messages entered the store in the order in which they were published."""
    everything = sorted((m for messages in stored.conversations.values() for m in messages), key=lambda m: m.id)
    first = dict.fromkeys(message.payload.decode() for message in everything)
    for publisher in publishers:
        order = [payload for payload in first if payload in publisher.sent]
        assert order == [payload for payload in publisher.sent if payload in first]


def inboxes_hold_what_is_due(stored: Stored, inboxes: dict[str, set[str]]) -> None:
    """Law 1: an inbox has exactly the messages that match a filter of its devices, in the order of the store."""
    everything = sorted((m for messages in stored.conversations.values() for m in messages), key=lambda m: m.id)
    for user, filters in inboxes.items():
        due = [message.id for message in everything if any(matches(f, message.topic) for f in filters)]
        held = [entry.message.id for entry in stored.inboxes.get(user, []) if entry.message is not None]
        assert held == due, f"{user}: {len(due)} messages are due, {len(held)} in the inbox"


def publishers_are_in_order_everywhere(stored: Stored, publishers: Iterable[PublisherRecord]) -> None:
    """Law 4 with several nodes: each publisher's messages, of whatever QoS, are in every conversation and every inbox in their
    order.

    A second copy of a message, which QoS 1 may have, counts where the first one is. Ids say nothing: a QoS 2 message that is
    sent again through another node is stored under the id that it had at first.
    """
    lists = {topic: [m.payload.decode() for m in messages] for topic, messages in stored.conversations.items()}
    lists |= {user: [_payload(entry) for entry in entries] for user, entries in stored.inboxes.items()}
    for publisher in publishers:
        place = {payload: number for number, payload in enumerate(publisher.sent)}
        for name, payloads in lists.items():
            first = [payload for payload in dict.fromkeys(payloads) if payload in place]
            order = [place[payload] for payload in first]
            assert order == sorted(order), f"{name}: out of order near {_first_fault(order)}: {first}"


def inboxes_hold_all_that_is_due(stored: Stored, inboxes: dict[str, set[str]]) -> None:
    """Law 1 with several nodes: an inbox has exactly the messages that match a filter of its devices, in some order."""
    everything = [message for messages in stored.conversations.values() for message in messages]
    for user, filters in inboxes.items():
        due = {message.id for message in everything if any(matches(f, message.topic) for f in filters)}
        held = [entry.message.id for entry in stored.inboxes.get(user, []) if entry.message is not None]
        assert len(held) == len(set(held)), f"{user}: a message is in the inbox twice"
        assert set(held) == due, f"{user}: {len(due - set(held))} messages that are due are not in the inbox"


def offsets_are_at_the_head(stored: Stored, devices: Iterable[Recorder]) -> None:
    """After a clean shutdown a device that acknowledged everything has nothing left to get."""
    for device in devices:
        kept = stored.devices[f"u/{device.user}", device.name]
        beyond = (entry for entry in stored.due(device) if entry.seq > kept.offset)
        left = [f"{entry.seq}: {_payload(entry)}" for entry in beyond if _payload(entry) in device.got]
        assert left == [], f"{device.name}: offset {kept.offset}, but it acknowledged {left}"
        assert kept.inflight == [], device.name


# --- what was delivered --------------------------------------------------------------------------------------------


class Kill(NamedTuple):
    """A moment at which the broker was killed; ``late``: how old the last stored offset may have been, in seconds."""

    at: float
    late: float


def lateness(pulse: Pulse, now: float) -> float:
    """The age that an offset may have: a second, and as long as the machine was seen to do nothing at all."""
    return SECOND + 0.25 + pulse.longest_silence(now - 5, now)


def everything_was_delivered(stored: Stored, device: Recorder) -> None:
    """Law 3: each entry due to the device was delivered: QoS 1 at least once, QoS 2 exactly once."""
    due = Counter(_payload(entry) for entry in stored.due(device))
    qos = {_payload(entry): effective_qos(device, entry) for entry in stored.due(device)}
    got = Counter(receipt.payload for receipt in device.receipts)
    assert set(got) <= set(due), f"{device.name} got what is not due to it: {sorted(set(got) - set(due))[:10]}"
    for payload, wanted in due.items():
        times = f"{device.name}: {payload} at QoS {qos[payload]} {got[payload]} times instead of {wanted}"
        if qos[payload] == 2:
            assert got[payload] == wanted, times + _standing(stored, device, payload)
        elif qos[payload] == 1:
            assert got[payload] >= wanted, times + _standing(stored, device, payload)
    for receipt in device.receipts:
        assert receipt.qos == qos[receipt.payload], f"{device.name}: {receipt} came at another QoS"


def _standing(stored: Stored, device: Recorder, payload: str) -> str:
    """Where the device stands by each entry of a payload, for whoever reads a failure: what came when it had left for good is
    not lost, what it has passed is. Empty where the device is not stored."""
    kept = stored.devices.get((f"u/{device.user}", device.name))
    if kept is None:
        return ""
    head = len(stored.inboxes[kept.key.user])
    told = f"; it has offset {kept.offset} and cursor {kept.cursor} of {head}"
    for entry in stored.due(device):
        if entry.message is not None and _payload(entry) == payload:
            found = place(stored_standing(kept), entry.seq, entry.message, now=entry.message.time)
            state = found.state.name.lower().replace("_", " ") + (f" ({found.reason})" if found.reason else "")
            told += f", and entry {entry.seq}, of node {number_of(entry.message.id)} at {entry.message.time}, is {state}"
    return told


def delivery_was_in_order(stored: Stored, device: Recorder) -> None:
    """Laws 2 and 4: a device first hears of messages in the order of its inbox.

    QoS 2 is looked at by itself: a client gives it to its application when it is released.
    """
    place: dict[str, int] = {}
    for entry in stored.due(device):
        place.setdefault(_payload(entry), entry.seq)
    for levels in ((0, 1), (2,)):
        first = dict.fromkeys(receipt.payload for receipt in device.receipts if receipt.qos in levels)
        order = [place[payload] for payload in first]
        assert order == sorted(order), f"{device.name}: QoS {levels} out of order near {_first_fault(order)}"
        told = list(dict.fromkeys(receipt.seq for receipt in device.receipts if receipt.qos in levels and receipt.seq))
        assert told == sorted(told), f"{device.name}: inbox sequences out of order near {_first_fault(told)}"


def duplicates_are_bounded(stored: Stored, device: Recorder, kills: Sequence[Kill], window: int) -> None:
    """Law 3: twice is at most the window for each connection that ended, and what was received just before a kill."""
    due = Counter(_payload(entry) for entry in stored.due(device))
    got = Counter(receipt.payload for receipt in device.receipts)
    twice = sum((got - due).values())
    allowed = window * len(device.drops)
    allowed += sum(_received(device.receipts, kill.at - kill.late, kill.at + 0.25) for kill in kills)
    assert twice <= allowed, f"{device.name} got {twice} messages again; {allowed} may be"


def _received(receipts: Sequence[Receipt], begin: float, end: float) -> int:
    return sum(begin <= receipt.at <= end and receipt.qos < 2 for receipt in receipts)


def group_got_everything(stored: Stored, inbox: str, members: Sequence[Recorder], kills: Sequence[Kill], window: int) -> None:
    """A shared subscription: every message went to some member, QoS 2 to one of them and once, the rest in bounds."""
    due = Counter(_payload(entry) for entry in stored.inboxes[inbox])
    qos = {_payload(entry): entry.message.qos for entry in stored.inboxes[inbox] if entry.message is not None}
    receipts = [receipt for member in members for receipt in member.receipts if receipt.payload in due]
    got = Counter(receipt.payload for receipt in receipts)
    for payload, wanted in due.items():
        assert got[payload] >= (wanted if qos[payload] else 0), f"{payload}: {got[payload]} times instead of {wanted}"
        if qos[payload] == 2:
            assert got[payload] == wanted, f"{payload} at QoS 2: {got[payload]} times instead of {wanted}"
    allowed = window * sum(len(member.drops) for member in members)
    allowed += sum(_received(receipts, kill.at - kill.late, kill.at + 0.25) for kill in kills)
    assert sum((got - due).values()) <= allowed, f"{sum((got - due).values())} messages again; {allowed} may be"


def wills_survived(stored: Stored, held: Iterable[int], given_up: int, made: int) -> None:
    """Each will of an accepted connection that broke off is stored once; one that was given up is not."""
    wills = Counter({payload: count for payload, count in stored.copies().items() if payload.startswith("will:")})
    for number in held:
        if number != given_up:
            assert wills[f"will:{number}"] == 1, f"will {number} is stored {wills[f'will:{number}']} times"
    assert f"will:{given_up}" not in wills
    for payload, count in wills.items():
        assert count == 1, f"{payload} is stored {count} times"
        assert int(payload[5:]) <= made


def effective_qos(device: Recorder, entry: InboxEntry) -> int:
    """The lower of what was published and the highest that a matching subscription of the device has."""
    assert entry.message is not None
    topic = entry.message.topic
    return min(entry.message.qos, max(qos for filter_, qos in device.filters.items() if matches(filter_, topic)))


def _payload(entry: InboxEntry) -> str:
    assert entry.message is not None
    return entry.message.payload.decode()


def _first_fault(order: Sequence[int]) -> tuple[int, int]:
    return next((a, b) for a, b in itertools.pairwise(order) if a >= b)
