"""A clean session that storage does not know and a stored one, of one client on two nodes: the order of the routes decides."""

from __future__ import annotations

from broker.packets import ReasonCode
from broker.packets.model import Disconnect, Will
from storage.cluster import HELD, Change
from storage.records import DeviceKey
from tests.support.cluster import cluster
from tests.support.until import until
from tests.support.wire import Client

PHONE = DeviceKey("c/phone", "phone")
WILL = Will("gone", b"will", 1, False, {})


async def closed_with(client: Client) -> list[int]:
    return [packet.reason for packet in await client.closed() if isinstance(packet, Disconnect)]


async def test_a_stored_session_that_comes_later_closes_a_clean_one() -> None:
    """Whatever its epoch is: the clean one has none that anybody could compare."""
    async with cluster(2) as made:
        one, other = made.nodes
        client = await one.client("phone", 5)
        made.database.tell(other.token, [Change(HELD, *PHONE, epoch=2, node=other.token)])
        assert await closed_with(client) == [ReasonCode.SESSION_TAKEN_OVER]


async def test_a_node_closes_a_connection_whose_device_was_taken_and_has_already_ended() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        client = await one.durable("phone", 5)
        (session,) = one.server.sessions.named("phone")
        made.database.tell(other.token, [Change(HELD, *PHONE, epoch=session.epoch + 1)])
        assert await closed_with(client) == [ReasonCode.SESSION_TAKEN_OVER]


async def test_a_clean_session_that_comes_later_leaves_a_stored_ones_will_to_its_node() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        client = await one.client("phone", 5, will=WILL)
        made.database.tell(other.token, [Change(HELD, *PHONE, node=other.token)])
        assert await closed_with(client) == [ReasonCode.SESSION_TAKEN_OVER]
        stored = await until(lambda: other.storage.read_conversation("gone"))
        assert [message.payload for message in stored] == [b"will"]
        await until(lambda: _gone(made.database.storage.device(PHONE)))


async def _gone(device: object) -> bool:
    return await device is None  # type: ignore[misc]


async def test_a_device_that_is_connected_to_another_node_is_due_nothing() -> None:
    async with cluster(2) as made:
        one, other = made.nodes
        await one.durable("phone", 5, will=WILL)
        session = await other.server.sessions.latest(PHONE)
        assert session is not None
        assert not other.server.sessions.deadlines.passed(session)
