"""Our packets as amqtt's, for plugins that listen to ``mqtt_packet_received`` and ``mqtt_packet_sent``.

amqtt knows MQTT 3.1.1: what only version 5 has (properties, reason codes, AUTH) is left out. A CONNECT's password is
masked, because such plugins are loggers.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from amqtt.mqtt.connack import ConnackPacket
from amqtt.mqtt.connect import ConnectPacket, ConnectPayload, ConnectVariableHeader
from amqtt.mqtt.disconnect import DisconnectPacket
from amqtt.mqtt.pingreq import PingReqPacket
from amqtt.mqtt.pingresp import PingRespPacket
from amqtt.mqtt.puback import PubackPacket
from amqtt.mqtt.pubcomp import PubcompPacket
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.pubrec import PubrecPacket
from amqtt.mqtt.pubrel import PubrelPacket
from amqtt.mqtt.suback import SubackPacket
from amqtt.mqtt.subscribe import SubscribePacket
from amqtt.mqtt.unsuback import UnsubackPacket
from amqtt.mqtt.unsubscribe import UnsubscribePacket

from broker.packets import model

MASK = "***"

_WITH_ID = {
    model.PubAck: PubackPacket,
    model.PubRec: PubrecPacket,
    model.PubRel: PubrelPacket,
    model.PubComp: PubcompPacket,
}
_BARE = {model.PingReq: PingReqPacket, model.PingResp: PingRespPacket, model.Disconnect: DisconnectPacket}


def to_amqtt(packet: model.Packet) -> Any | None:
    """The amqtt packet that says the same, with its lengths filled in; None where amqtt has no such packet."""
    built = _build(packet)
    if built is not None:
        built.to_bytes()  # fills in the remaining length
        built.protocol_ts = datetime.now(UTC)
    return built


def _build(packet: model.Packet) -> Any | None:
    match packet:
        case model.Publish():
            number = packet.packet_id or None
            return PublishPacket.build(packet.topic, packet.payload, number, packet.dup, packet.qos, packet.retain)
        case model.PubAck() | model.PubRec() | model.PubRel() | model.PubComp():
            return _WITH_ID[type(packet)].build(packet.packet_id)
        case model.PingReq() | model.PingResp() | model.Disconnect():
            return _BARE[type(packet)]()
        case model.Connect():
            return _connect(packet)
        case model.ConnAck():
            return ConnackPacket.build(int(packet.session_present), packet.reason)
        case model.Subscribe():
            topics = [(filter, options & 0x03) for filter, options in packet.subscriptions]
            return SubscribePacket.build(topics, packet.packet_id)
        case model.SubAck():
            return SubackPacket.build(packet.packet_id, list(packet.reasons))
        case model.Unsubscribe():
            return UnsubscribePacket.build(list(packet.filters), packet.packet_id)
        case model.UnsubAck():
            return UnsubackPacket.build(packet.packet_id)
        case _:
            return None


def _connect(packet: model.Connect) -> Any:
    will = packet.will
    header = ConnectVariableHeader(
        0, packet.keep_alive, "MQIsdp" if packet.version == model.MQTT_3_1 else "MQTT", packet.version
    )
    header.clean_session_flag = packet.clean_start
    header.username_flag = packet.username is not None
    header.password_flag = packet.password is not None
    header.will_flag = will is not None
    if will is not None:
        header.flags |= will.qos << 3
        header.will_retain_flag = will.retain
    payload = ConnectPayload(
        packet.client_id,
        will.topic if will else None,
        will.payload if will else None,
        packet.username,
        MASK if packet.password is not None else None,
    )
    return ConnectPacket(variable_header=header, payload=payload)
