"""What Tideline's plugins can hook into, beyond amqtt's events.

A Tideline plugin is an amqtt plugin: a class named in config.yaml, with a `Config` dataclass, loaded by amqtt's plugin
manager, closed on shutdown. These base classes add what amqtt lacks:

- `GroupPlugin` is given a whole group before it is committed, and again after its acks were written.
- `EnhancedAuthPlugin` authenticates clients by the AUTH exchange of MQTT 5.
- `RequestPlugin` answers what devices ask by publishing to `$sync/request`.
- `SessionPlugin` is told of each client that comes and goes.
- `JobPlugin` runs jobs: retention and the like.
- `SpanPlugin` records spans of publishes.
- `StoragePlugin` says where groups are committed. One is needed.

Their order in config.yaml is the order in which they are called.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple, Protocol

from amqtt.broker import BrokerContext
from amqtt.plugins.base import BasePlugin

from broker.access import SessionInfo, StandsFor
from broker.hooks.group import Group
from broker.packets import ReasonCode
from broker.publication import Publication
from storage.errors import MessageRefused
from storage.interface import Storage
from storage.records import Append, DeviceKey


def readers_of(append: Append) -> Iterable[str]:
    """The users who share a message's entry, beside its ``recipients``: those of a channel (docs/decisions/0012), some perhaps
    twice. To be gone through at once: they may be very many."""
    return append.readers if isinstance(append, Publication) else ()


class Refusal(MessageRefused):
    """Why a message was not taken. An MQTT 5 publisher gets the code, and the text as its reason string.

    PUBACK and PUBREC can say 0x80, 0x83, 0x87, 0x90, 0x97 and 0x99. Here 0x97 means "now": the same message may be taken later.
    """

    def __init__(self, text: str, code: ReasonCode = ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR) -> None:
        super().__init__(text)
        self.code = code


class GroupPlugin(BasePlugin[BrokerContext]):
    """A plugin that sees every group of messages."""

    stand_ins: ClassVar[Mapping[str, StandsFor]] = {}
    """Topics that stand for others to it, by prefix (`broker.access.stand_ins`): access is asked about those."""

    def arrived(self, publication: Publication) -> None:
        """Called for each message that is not refused, at its place in the order, before it has an id and recipients.

        May change its message's topic (then set ``sent_to``), payload and properties; before that set ``content``. Must not
        wait. Raising refuses the message.
        """

    def before_ack(self, group: Group) -> Awaitable[None] | None:
        """Called before the group is committed, with every message of it; nobody has been acknowledged. May be ``async``; where
        it need not wait for anything, a plain function costs each group less.

        Raising `storage.errors.StorageUnavailable` says that storage is away: what was added to ``operations`` is dropped, and
        the same is called again until storage is back.

        Raising anything else, or running longer than ``hooks.timeout``, withholds the acks. What was added to ``operations`` is
        then dropped, and the broker calls again with each message on its own: one that still fails is refused alone, with what
        was added for it; what was added for the others is committed with them.
        """

    def after_ack(self, group: Group) -> Awaitable[None] | None:
        """Called after the group is durable and its acks are written. May be ``async``; where it need not wait for anything, a
        plain function costs each group less.

        A failure is logged and counted, and delays nothing: groups wait in a bounded queue, and one that
        finds it full is skipped for this plugin (read the storage's tail for a complete view).
        """


class StoragePlugin(BasePlugin[BrokerContext]):
    """The plugin that provides the storage; at most one may be configured."""

    def storage(self) -> Storage:
        """The backend to open and commit to; called once, before the listeners open."""
        raise NotImplementedError(f"{type(self).__name__} provides no storage")

    def read_fanout(self) -> Sequence[str]:
        """The topic filters with read fan-out: what goes to topics of one is kept once, for all its readers."""
        return ()

    def read_fanout_of(self, topic: str) -> str:
        """Which of them a topic belongs to; empty for none. Always the same for the same topic."""
        return ""


class SyncPlugin(BasePlugin[BrokerContext]):
    """Base for the plugin that decides about inboxes; at most one may be configured."""

    def start_position(self) -> str:
        """Where a device that never connected before starts: see `storage.records.OpenSession.start`."""
        return "latest"


# --- enhanced authentication -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AuthStart:
    """Who begins an exchange. ``username`` is CONNECT's, which nobody has verified, or None.

    ``user`` is None at CONNECT; a connected client that authenticates again is this user, and must stay it.
    """

    method: str
    client_id: str
    username: str | None
    address: str
    ssl_object: ssl.SSLObject | None
    user: str | None


class Challenge(NamedTuple):
    """The client must answer this first: it is sent in an AUTH packet with Continue Authentication."""

    data: bytes


class Accepted(NamedTuple):
    """The client is this user. ``data`` goes into the CONNACK, or the AUTH packet that ends the exchange."""

    username: str
    data: bytes = b""


class Denied(Exception):
    """The client is not let in, or not any longer. It gets the code, and the text where it wants reasons."""

    CODES: Final = frozenset(
        {
            ReasonCode.UNSPECIFIED_ERROR,
            ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR,
            ReasonCode.BAD_USER_NAME_OR_PASSWORD,
            ReasonCode.NOT_AUTHORIZED,
            ReasonCode.SERVER_BUSY,
            ReasonCode.BAD_AUTHENTICATION_METHOD,
            ReasonCode.QUOTA_EXCEEDED,
        }
    )

    def __init__(self, text: str, code: ReasonCode = ReasonCode.NOT_AUTHORIZED) -> None:
        super().__init__(text)
        if code not in self.CODES:
            raise ValueError(f"a refused authentication cannot have the code 0x{code:02X}")
        self.code = code


class AuthExchange(Protocol):
    """One exchange; its state ends with it, or with the connection."""

    async def step(self, data: bytes) -> Challenge | Accepted:
        """The client's next data (b"" for none). Raises `Denied`; anything else, or longer than ``hooks.timeout``, is a no."""


class EnhancedAuthPlugin(BasePlugin[BrokerContext]):
    """A plugin that authenticates by AUTH packets (4.12). It alone decides: the other authentication plugins are not asked."""

    methods: tuple[str, ...] = ()
    """The names of the authentication methods that it offers."""

    def begin(self, start: AuthStart) -> AuthExchange:
        """A client wants to be authenticated, at CONNECT or again; `AuthExchange.step` follows at once with its first data."""
        raise NotImplementedError(f"{type(self).__name__} authenticates nobody")


# --- requests --------------------------------------------------------------------------------------------------------

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


class SessionPlugin(BasePlugin[BrokerContext]):
    """A plugin that has something to do for each client of this node that comes or goes. Nothing here may wait, or raise."""

    def opening(self, connection: object, info: SessionInfo) -> None:
        """A client is let in, and its session is submitted next: what is given to `BrokerApi.submit` now is durable before its
        CONNACK. ``connection`` stands for its connection; `ended` follows in any case."""

    def opened(self, device: DeviceKey) -> None:
        """A client got its CONNACK, or a reader over HTTP has made a device, of which neither of the others is told."""

    def ended(self, connection: object, info: SessionInfo) -> None:
        """A connection that `opening` was told of has ended."""


class NoSuchJob(Exception):
    """There is no job of this name; the text names one that may be meant."""


class JobBusy(Exception):
    """The job runs already, or does not run, as it would have to."""


class JobPlugin(BasePlugin[BrokerContext]):
    """The plugin that runs jobs; at most one may be configured. A job is told as the HTTP API tells it (docs/jobs.md)."""

    def jobs(self) -> Sequence[dict[str, Any]]:
        """Every job: when it ran last and how that ended, when it runs next, and how far it is while it runs."""
        raise NotImplementedError(f"{type(self).__name__} has no jobs")

    def job(self, name: str) -> dict[str, Any]:
        """One of them. Raises `NoSuchJob`."""
        raise NotImplementedError(f"{type(self).__name__} has no jobs")

    def run(self, name: str) -> dict[str, Any]:
        """Begin a run now. Raises `NoSuchJob`, and `JobBusy` while one is under way."""
        raise NotImplementedError(f"{type(self).__name__} has no jobs")

    def cancel(self, name: str) -> dict[str, Any]:
        """Have the run under way end at its next step. Raises `NoSuchJob`, and `JobBusy` where none is."""
        raise NotImplementedError(f"{type(self).__name__} has no jobs")

    async def ended(self, name: str) -> dict[str, Any]:
        """Wait until the run under way has ended, and some seconds more for that to be durable. Raises `NoSuchJob`."""
        raise NotImplementedError(f"{type(self).__name__} has no jobs")


# --- spans -----------------------------------------------------------------------------------------------------------


class GroupTimes(NamedTuple):
    """When a group's commit began and was done, and when it was acknowledged and handed to its subscribers
    (`time.perf_counter`)."""

    committing: float
    committed: float
    delivered: float


class SpanPlugin(BasePlugin[BrokerContext]):
    """The plugin that records spans of publishes; at most one may be configured. Neither call may wait."""

    def received(self, publication: Publication, user_properties: Sequence[tuple[str, str]]) -> None:
        """A client's message came: note in its ``span`` what `finished` needs."""
        raise NotImplementedError(f"{type(self).__name__} records nothing")

    def finished(self, publications: Sequence[Publication], times: GroupTimes) -> None:
        """A group is committed and delivered, but for the messages in it that were refused."""
        raise NotImplementedError(f"{type(self).__name__} records nothing")


ONLY_ONE: dict[type[Any], str] = {
    StoragePlugin: "provides the storage",
    SyncPlugin: "decides about inboxes",
    RequestPlugin: "answers requests",
    JobPlugin: "runs jobs",
    SpanPlugin: "records spans",
}
"""The kinds of which at most one plugin may be configured, and what it does."""
