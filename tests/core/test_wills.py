"""Wills as they are kept: what comes out is what went in, and one that a crash publishes again is stored once."""

from __future__ import annotations

from broker.clock import ServerTime
from broker.packets.model import Will
from broker.packets.properties import Properties, Property, encode_property_body
from broker.sessions import wills
from storage.memory import MemoryStorage
from storage.records import DeviceKey

DEVICE = DeviceKey("u/ann", "phone")
NOW = 1_700_000_000_000


def at(now: int) -> ServerTime:
    return ServerTime(lambda: now / 1000, lambda: 0.0)


def test_a_will_comes_out_as_it_went_in() -> None:
    properties: Properties = {Property.WILL_DELAY: 5, Property.MESSAGE_EXPIRY: 60, Property.CONTENT_TYPE: "text/plain"}
    packed = wills.pack(Will("a/b", b"\0gone", 2, True, properties))
    assert wills.delay(packed) == 5
    append = wills.append(packed, DEVICE, at(NOW))
    message = append.message
    assert (message.topic, message.payload, message.qos, message.retain) == ("a/b", b"\0gone", 2, True)
    assert (message.user, message.device, append.retain) == (*DEVICE, True)
    assert message.expires == NOW + 60_000
    assert message.properties == encode_property_body({Property.CONTENT_TYPE: "text/plain"})


async def test_a_will_that_is_published_again_after_a_crash_is_stored_once() -> None:
    """Storage may have the message and not that the will is gone: the next broker finds the will still there."""
    storage = MemoryStorage()
    packed, other = (wills.pack(Will("a/b", b"gone", 1, False)) for _ in range(2))
    for number, one in enumerate((packed, packed, other)):
        append = wills.append(one, DEVICE, at(NOW + number))
        append.message.id = number + 1
        await storage.commit([append])
    assert [message.id for message in await storage.read_conversation("a/b")] == [1, 3]
