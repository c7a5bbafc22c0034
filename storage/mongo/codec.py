"""Records to documents and back. No I/O."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from storage.mongo.documents import Raw, pair_key, timeline_key
from storage.packing import pack_inflight, unpack_inflight
from storage.records import Append, Device, DeviceKey, Message, Subscription
from storage.rules import Once


def message_document(message: Message, seq: int, time: int, version: int) -> Raw:
    """The fields of a message, without ``_id``; those that have their default are left out."""
    document = {
        "topic": message.topic,
        "seq": seq,
        "mid": message.id,
        "user": message.user,
        "device": message.device,
        "time": time,
        "qos": message.qos,
        "payload": message.payload,
        "v": version,
    }
    if message.retain:
        document["retain"] = True
    if message.expires:
        document["expires"] = message.expires
    if message.properties:
        document["properties"] = message.properties
    return document


def store_document(op: Append, seq: int, time: int, version: int) -> Raw:
    """A message of the store, with what recovery needs."""
    message = op.message
    document = {"_id": timeline_key(message.topic, seq), **message_document(message, seq, time, version)}
    if op.recipients:
        document["recipients"] = list(op.recipients)
    if op.received is not None:
        (user, client_id), packet_id = op.received
        document["received"] = [user, client_id, packet_id]
    if op.retain:
        document["keep"] = True
    if op.idempotency_key:
        document["once"] = once_key(message.user, op.idempotency_key)
        document["once_until"] = op.idempotency_until
    return document


def once_key(user: str, key: str) -> str:
    """The ``_id`` of an idempotency key's document."""
    return pair_key(user, key)


def once_document(once: Once) -> Raw:
    """What an idempotency key's document holds beside ``_id`` and ``v``."""
    return {"digest": once.digest, "mid": once.message, "seq": once.seq, "until": once.until}


def once_of(document: Mapping[str, Any]) -> Once:
    """What an idempotency key's document says."""
    return Once(document["digest"], document["mid"], document["seq"], document["until"])


def retained_document(message: Message, seq: int, time: int) -> Raw:
    """What a retained message, or the clearing of one, leaves under its topic, beside ``_id`` and ``v``.

    Complete: an update keeps the fields that it does not name.
    """
    document = message_document(message, seq, time, 0)
    del document["v"]
    return {"retain": False, "expires": 0, "properties": b"", **document, "gone": 0 if message.payload else 1}


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
    """A device as stored, without its subscriptions, and the version that created it."""

    device: Device
    generation: int

    def copy(self) -> Kept:
        """One that can be changed."""
        device = self.device
        return Kept(
            replace(device, inflight=list(device.inflight), received=set(device.received), subscriptions={}), self.generation
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
        "epoch": device.epoch,
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


def pack_packet_ids(packet_ids: list[int]) -> bytes:
    """Two bytes each."""
    return struct.pack(f">{len(packet_ids)}H", *packet_ids)


def kept_device(document: Mapping[str, Any]) -> Kept:
    """What `device_document` wrote."""
    received = document["received"]
    device = Device(
        DeviceKey(document["user"], document["client"]),
        epoch=document["epoch"],
        expiry=document["expiry"],
        expires_at=document["expires_at"],
        created_at=document["created_at"],
        offset=document["offset"],
        cursor=document["cursor"],
        inflight=unpack_inflight(document["inflight"]),
        received=set(struct.unpack(f">{len(received) // 2}H", received)),
        will=document["will"],
        will_at=document["will_at"],
    )
    return Kept(device, document["generation"])


def subscription_document(key: DeviceKey, subscription: Subscription, generation: int) -> Raw:
    """All fields of a subscription but ``_id`` and ``v``."""
    return {
        "user": key.user,
        "client": key.client_id,
        "generation": generation,
        "filter": subscription.filter,
        "options": subscription.options,
        "identifier": subscription.identifier,
        "since": subscription.since,
    }


def subscription(document: Mapping[str, Any]) -> Subscription:
    """What `subscription_document` wrote."""
    return Subscription(document["filter"], document["options"], document["identifier"], document["since"])
