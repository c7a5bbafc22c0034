"""What Tideline's plugins can hook into, beyond amqtt's events.

A Tideline plugin is an amqtt plugin: a class named in config.yaml, with a `Config` dataclass, loaded by amqtt's plugin
manager, closed on shutdown. These base classes add what amqtt lacks:

- `GroupPlugin` is awaited with a whole group before it is committed, and again after its acks were written.
- `RequestPlugin` answers what devices ask by publishing to `$sync/request`.
- `StoragePlugin` says where groups are committed. Without one, the broker uses a bounded in-memory storage.

Their order in config.yaml is the order in which they are called.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from amqtt.broker import BrokerContext
from amqtt.plugins.base import BasePlugin

from broker.authority import SessionInfo
from broker.packets.codes import ReasonCode
from storage.errors import MessageRefused
from storage.interface import Storage
from storage.records import Append, DeviceKey, Operation


@dataclass(slots=True, eq=False)
class Group:
    """Everything that is committed in one durable write, in order.

    ``appends`` are the messages among ``operations``. A hook may change an append's ``store`` and ``recipients``, refuse it
    (set ``error`` to a `Refusal`), or add operations of its own at the end.
    """

    operations: list[Operation]
    appends: list[Append] = field(default_factory=list)


class Refusal(MessageRefused):
    """Why a message was not taken. An MQTT 5 publisher gets the code, and the text as its reason string.

    PUBACK and PUBREC can say 0x80, 0x83, 0x87, 0x90, 0x97 and 0x99. Here 0x97 means "now": the same message may be taken later.
    """

    def __init__(self, text: str, code: ReasonCode = ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR) -> None:
        super().__init__(text)
        self.code = code


class GroupPlugin(BasePlugin[BrokerContext]):
    """A plugin that sees every group of messages."""

    async def before_ack(self, group: Group) -> None:
        """Called before the group is committed, with every message of it; nobody has been acknowledged.

        Raising, or running longer than ``hooks.timeout``, withholds the acks. The broker then calls again with each
        message on its own; one that still fails is refused alone.
        """

    async def after_ack(self, group: Group) -> None:
        """Called after the group is durable and its acks are written.

        A failure is logged and counted, and delays nothing: groups wait in a bounded queue, and one that
        finds it full is skipped for this plugin (read the storage's tail for a complete view).
        """


class StoragePlugin(BasePlugin[BrokerContext]):
    """The plugin that provides the storage; at most one may be configured."""

    def storage(self) -> Storage:
        """The backend to open and commit to; called once, before the listeners open."""
        raise NotImplementedError(f"{type(self).__name__} provides no storage")


class SyncPlugin(BasePlugin[BrokerContext]):
    """Base for the plugin that decides about inboxes; at most one may be configured."""

    def start_position(self) -> str:
        """Where a device that never connected before starts: see `storage.records.OpenSession.start`."""
        return "latest"


REQUEST_TOPIC = "$sync/request"


@dataclass(frozen=True, slots=True)
class Request:
    """What a device asked. ``response_topic`` and ``correlation`` are MQTT 5's; empty where it gave none."""

    device: DeviceKey
    info: SessionInfo
    payload: bytes
    qos: int = 0
    response_topic: str = ""
    correlation: bytes = b""


class RequestPlugin(BasePlugin[BrokerContext]):
    """The plugin that answers requests; at most one may be configured."""

    def request(self, request: Request) -> None:
        """A request came; everything that its device published before is durable. Must not wait."""
        raise NotImplementedError(f"{type(self).__name__} answers no requests")

    def listening(self, device: DeviceKey, topic: str) -> None:
        """A device has subscribed to a `$sync/` topic of its own. Must not wait."""
