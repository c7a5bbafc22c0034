"""DISCONNECT: what it leaves of the will, and of the time for which the session is kept."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from broker.packets import Disconnect, Property, ReasonCode

if TYPE_CHECKING:
    from broker.connection.connection import Connection


def received(connection: Connection, packet: Disconnect) -> None:
    """The client leaves. Only a valid DISCONNECT with reason 0 gives its will up [MQTT-3.1.2-10, 3.14.4-3]."""
    session = connection.session
    if session is None:
        connection.close("client gave its authentication up", logging.DEBUG)
        return
    expiry = packet.properties.get(Property.SESSION_EXPIRY)
    if expiry is not None:
        if expiry and (connection.connect_options is None or not connection.connect_options.asked_expiry):
            connection.disconnect(ReasonCode.PROTOCOL_ERROR, "a session that was to end now cannot be kept")  # 3.14.2.2.2
            return
        session.expiry = min(expiry, connection.server.settings.mqtt.max_session_expiry)
    connection.will_wanted = packet.reason != ReasonCode.SUCCESS
    connection.close("client disconnected", logging.DEBUG)
