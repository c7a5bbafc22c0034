"""SUBSCRIBE and UNSUBSCRIBE: from the packet to `broker.routing.subscriptions`, which asks the ACL and decides, and from its
answer to SUBACK and UNSUBACK."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING

from broker.packets import EMPTY, Property, ReasonCode, SubAck, Subscribe, UnsubAck, Unsubscribe
from broker.routing import why_reserved
from storage.records import Subscription

if TYPE_CHECKING:
    from broker.connection.connection import Connection


def subscribe(connection: Connection, packet: Subscribe) -> None:
    """Ask for the filters; SUBACK follows durability."""
    session = connection.session
    assert session is not None
    identifier = packet.properties.get(Property.SUBSCRIPTION_IDENTIFIER, 0)
    wanted = [Subscription(filter_, options, identifier) for filter_, options in packet.subscriptions]

    def answer(codes: list[int]) -> None:
        if ReasonCode.QUOTA_EXCEEDED in codes:
            server, most = connection.server, connection.server.settings.mqtt.max_subscriptions
            server.gate.log.warning("%s: filters refused, max_subscriptions %d", connection.name, most, key=session)
        if not connection.closed:
            answer = codes if connection.version >= 5 else [min(code, 0x80) for code in codes]
            denied = (
                one for (one, _), code in zip(packet.subscriptions, codes, strict=True) if code == ReasonCode.NOT_AUTHORIZED
            )
            why = next(filter(None, (why_reserved(session.key.client_id, one) for one in denied)), "")
            connection.send(SubAck(packet.packet_id, answer, connection.reason(why) if why else EMPTY))

    subscriptions = connection.server.subscriptions
    asking = subscriptions.subscribe(session, wanted, connection.info, lambda: not connection.closed, answer)
    if asking is not None:
        connection.run(_then_go_on(connection, asking), listen=True)


async def _then_go_on(connection: Connection, asking: Coroutine[object, object, None]) -> None:
    await asking
    if not connection.closed:
        connection.go_on()


def unsubscribe(connection: Connection, packet: Unsubscribe) -> None:
    """Take the filters out; UNSUBACK follows durability."""
    session = connection.session
    assert session is not None

    def answer(codes: list[int]) -> None:
        if not connection.closed:
            connection.send(UnsubAck(packet.packet_id, codes))

    subscriptions = connection.server.subscriptions
    subscriptions.unsubscribe(session, packet.filters, lambda: not connection.closed, answer)
