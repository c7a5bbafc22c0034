"""CONNECT and CONNACK: the packets of each client that connects, as plain values like the others (`broker.packets.model`).

They are no dataclasses, whose ``__init__`` cannot be compiled. Nothing in them leads back to them (``acyclic``).
"""

from __future__ import annotations

from typing import ClassVar, Final

from mypy_extensions import mypyc_attr

from broker.packets.codes import PacketType
from broker.packets.properties import EMPTY, Properties

_EMPTY: Final = EMPTY  # a module's own is no look-up in the compiled core


@mypyc_attr(acyclic=True)
class Will:
    """What the server publishes in the name of a client that went without saying so."""

    __slots__ = ("payload", "properties", "qos", "retain", "topic")

    def __init__(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False, properties: Properties = _EMPTY) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.properties = properties

    def _fields(self) -> tuple[object, ...]:
        return self.topic, self.payload, self.qos, self.retain, self.properties

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, Will) else NotImplemented

    def __repr__(self) -> str:
        topic, payload, qos, retain, properties = self._fields()
        return f"Will({topic=}, {payload=}, {qos=}, {retain=}, {properties=})"


@mypyc_attr(acyclic=True)
class Connect:
    """``version`` is the protocol level (3, 4 or 5), ``keep_alive`` in seconds, 0 for none."""

    __slots__ = ("clean_start", "client_id", "keep_alive", "password", "properties", "username", "version", "will")

    type: ClassVar[PacketType] = PacketType.CONNECT

    def __init__(
        self,
        client_id: str,
        version: int = 4,
        clean_start: bool = True,
        keep_alive: int = 0,
        username: str | None = None,
        password: bytes | None = None,
        will: Will | None = None,
        properties: Properties = _EMPTY,
    ) -> None:
        self.client_id = client_id
        self.version = version
        self.clean_start = clean_start
        self.keep_alive = keep_alive
        self.username = username
        self.password = password
        self.will = will
        self.properties = properties

    def _fields(self) -> tuple[object, ...]:
        said = self.client_id, self.version, self.clean_start, self.keep_alive
        return *said, self.username, self.password, self.will, self.properties

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, Connect) else NotImplemented

    def __repr__(self) -> str:
        """Without the password, which no log may have."""
        client_id, version, clean_start, keep_alive, username, _, will, properties = self._fields()
        about = f"{client_id=}, {version=}, {clean_start=}, {keep_alive=}"
        return f"Connect({about}, {username=}, {will=}, {properties=})"


@mypyc_attr(acyclic=True)
class ConnAck:
    """``reason`` as in MQTT 5, or the return code of a 3.1.1 server; 0 for success."""

    __slots__ = ("properties", "reason", "session_present")

    type: ClassVar[PacketType] = PacketType.CONNACK

    def __init__(self, session_present: bool = False, reason: int = 0, properties: Properties = _EMPTY) -> None:
        self.session_present = session_present
        self.reason = reason
        self.properties = properties

    def _fields(self) -> tuple[object, ...]:
        return self.session_present, self.reason, self.properties

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, ConnAck) else NotImplemented

    def __repr__(self) -> str:
        session_present, reason, properties = self._fields()
        return f"ConnAck({session_present=}, {reason=}, {properties=})"
