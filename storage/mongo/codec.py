"""Records to documents and back. No I/O."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from storage.cluster import Change
from storage.mongo.documents import Raw, pair_key
from storage.packing import pack_inflight, unpack_inflight
from storage.records import Device, DeviceKey, Message, Subscription
from storage.restored import unmarked
from storage.rules import Once

_CHANGES = 3 << 20
"""Characters of the changes in one document: 12 MiB at most, where each takes four bytes."""
_CHANGE_OVERHEAD = 100


def message_document(message: Message, seq: int, time: int, version: int) -> Raw:
    """The fields of a message, without ``_id``; those that have their default are left out."""
    return {
        "topic": message.topic,
        "seq": seq,
        "mid": message.id,
        "user": message.user,
        "device": message.device,
        "time": time,
        "qos": message.qos,
        "payload": message.payload,
        "v": version,
        **fields_beside(message),
    }


def fields_beside(message: Message) -> Raw:
    """Those of a message that have another value than their default."""
    fields: Raw = {}
    if message.retain:
        fields["retain"] = True
    if message.expires:
        fields["expires"] = message.expires
    if message.properties:
        fields["properties"] = message.properties
    return fields


def pack_places(places: Sequence[int]) -> bytes:
    """Eight bytes each."""
    return _ONE_PLACE(*places) if len(places) == 1 else struct.pack(f">{len(places)}q", *places)


_ONE_PLACE = struct.Struct(">q").pack
"""Of a message with one recipient, as most have: half the time."""


def places_of(document: Mapping[str, Any]) -> Sequence[int]:
    """For each recipient of a message of the store, the lowest sequence that its entry can have."""
    packed = document.get("places", b"")
    known = struct.unpack(f">{len(packed) // 8}q", packed)
    return (*known, *[0] * (len(document.get("recipients", ())) - len(known)))


def once_key(user: str, key: str) -> str:
    """The ``_id`` of an idempotency key's document."""
    return pair_key(user, key)


def claim_id(key: DeviceKey, packet_id: int) -> str:
    """The ``_id`` of a packet id's claim."""
    return f"{key.user}\0{key.client_id}\0{packet_id:05d}"


def once_document(once: Once, *, done: bool) -> Raw:
    """What an idempotency key's document holds beside ``_id`` and ``v``."""
    return {"digest": once.digest, "mid": once.message, "seq": once.seq, "until": once.until, "done": int(done)}


def once_of(document: Mapping[str, Any]) -> Once:
    """What an idempotency key's document says."""
    return Once(document["digest"], document["mid"], document["seq"], document["until"])


def retained_document(message: Message, seq: int, time: int, version: int, now: int) -> Raw:
    """What a retained message, or the clearing of one, leaves under its topic, beside ``_id``; ``now`` is the database's time.

    Complete: an update keeps the fields that it does not name.
    """
    document = {"retain": False, "expires": 0, "properties": b"", **message_document(message, seq, time, version), "gone": 0}
    return document if message.payload else {**document, "gone": 1, "gone_at": now}


def message(document: Mapping[str, Any]) -> Message:
    """The message of a document of the store, or of a retained one."""
    return Message(
        document["mid"],
        document["topic"],
        document["user"],
        document["device"],
        document["time"],
        document["qos"],
        document["payload"],
        bool(document.get("retain", False)),
        document.get("expires", 0),
        document.get("properties", b""),
        document["seq"],
    )


@dataclass(slots=True)
class Kept:
    """A device as stored, without its subscriptions, the version that created it, and how often it was written."""

    device: Device
    generation: int
    revision: int

    def copy(self) -> Kept:
        """One that can be changed."""
        device = self.device
        return Kept(
            replace(device, inflight=list(device.inflight), received=set(device.received), subscriptions={}),
            self.generation,
            self.revision,
        )


def device_id(key: DeviceKey) -> str:
    """The ``_id`` of a device's document."""
    return pair_key(*key)


def subscription_id(key: DeviceKey, name: str) -> str:
    """The ``_id`` of a subscription's document."""
    return f"{key.user}\0{key.client_id}\0{name}"


def device_document(kept: Kept) -> Raw:
    """All fields of a device but ``_id`` and ``v``."""
    device = kept.device
    packet_ids = sorted(device.received)
    return {
        "user": device.key.user,
        "client": device.key.client_id,
        "generation": kept.generation,
        "gone": 0,
        "node": device.node,
        "epoch": -device.epoch - 1 if device.restored else device.epoch,
        "expiry": device.expiry,
        "expires_at": device.expires_at,
        "created_at": device.created_at,
        "offset": device.offset,
        "cursor": device.cursor,
        "inflight": pack_inflight(device.inflight),
        "received": pack_packet_ids(packet_ids),
        "will": device.will,
        "will_at": device.will_at,
    }


def gone_device(now: int) -> Raw:
    """What is left of a device that is gone, beside its key, epoch and generation: small, and due at no time."""
    empty = {"expires_at": 0, "will": None, "will_at": 0, "inflight": b"", "received": b"", "node": 0}
    return {**empty, "gone": 1, "gone_at": now}


def pack_packet_ids(packet_ids: list[int]) -> bytes:
    """Two bytes each."""
    return struct.pack(f">{len(packet_ids)}H", *packet_ids)


def kept_device(document: Mapping[str, Any]) -> Kept:
    """What `device_document` wrote."""
    restored = document["epoch"] < 0
    received = b"" if restored else document["received"]
    device = Device(
        DeviceKey(document["user"], document["client"]),
        epoch=unmarked(document["epoch"]),
        expiry=document["expiry"],
        expires_at=document["expires_at"],
        created_at=document["created_at"],
        offset=document["offset"],
        cursor=document["offset" if restored else "cursor"],
        inflight=[] if restored else unpack_inflight(document["inflight"]),
        received=set(struct.unpack(f">{len(received) // 2}H", received)),
        will=document["will"],
        will_at=document["will_at"],
        node=document.get("node", 0),
        restored=restored,
    )
    return Kept(device, document["generation"], document["revision"])


def subscription_document(key: DeviceKey, subscription: Subscription, generation: int) -> Raw:
    """All fields of a subscription but ``_id`` and ``v``."""
    return {
        "user": key.user,
        "client": key.client_id,
        "generation": generation,
        "gone": 0,
        "filter": subscription.filter,
        "options": subscription.options,
        "identifier": subscription.identifier,
        "since": subscription.since,
    }


def subscription(document: Mapping[str, Any]) -> Subscription:
    """What `subscription_document` wrote."""
    return Subscription(document["filter"], document["options"], document["identifier"], document["since"])


def change_documents(changes: Iterable[Change]) -> Iterator[list[list[object]]]:
    """Changes of the routes as they are stored, in lists of which each fits into a document: one at least."""
    part: list[list[object]] = []
    size = 0
    for change in changes:
        more = len(change.user) + len(change.client_id) + len(change.filter) + _CHANGE_OVERHEAD
        if part and size + more > _CHANGES:
            yield part
            part, size = [], 0
        part.append(list(change))
        size += more
    yield part
