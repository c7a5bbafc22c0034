"""amqtt's `Session`, as its plugins see one, without what they never look at.

amqtt's own builds a state machine and two queues per session, some 48 KB. This one has the same attributes and costs a
few hundred bytes: values that are still the default live on the class, and containers come into being when asked for.
"""

from __future__ import annotations

import ssl
import time
from asyncio import Queue
from collections import OrderedDict
from functools import cached_property
from typing import Any

from amqtt.session import ApplicationMessage, IncomingApplicationMessage, OutgoingApplicationMessage, Session


class Transitions:
    """The state machine's face: ``state``, the triggers, and the questions that `transitions.Machine` answers."""

    __slots__ = ("_session",)

    def __init__(self, session: LightSession) -> None:
        self._session = session

    @property
    def state(self) -> str:
        return self._session.state

    def connect(self) -> bool:
        self._session.state = "connected"
        self._session.last_connect_time = int(time.time())
        self._session.last_disconnect_time = None
        return True

    def disconnect(self) -> bool:
        self._session.state = "disconnected"
        self._session.last_disconnect_time = int(time.time())
        return True

    def is_new(self) -> bool:
        return self._session.state == "new"

    def is_connected(self) -> bool:
        return self._session.state == "connected"

    def is_disconnected(self) -> bool:
        return self._session.state == "disconnected"


class LightSession(Session):
    """A session for plugins. What they write to it is theirs: the broker reads nothing back but ``attributes``,
    ``verified_as``, ``vouched_by`` and ``valid_until``."""

    state: str = "new"
    remote_address: str | None = None
    remote_port: int | None = None
    client_id: str | None = None
    clean_session: bool | None = None
    will_flag: bool = False
    will_message: bytes | bytearray | None = None
    will_qos: int | None = None
    will_retain: bool | None = None
    will_topic: str | None = None
    keep_alive: int = 0
    publish_retry_delay: int = 0
    broker_uri: str | None = None
    username: str | None = None
    password: str | None = None
    cafile: str | None = None
    capath: str | None = None
    cadata: bytes | None = None
    parent: int = 0
    last_connect_time: int | None = None
    last_disconnect_time: int | None = None
    ssl_object: ssl.SSLObject | None = None
    is_anonymous: bool = False
    user_key: str = ""
    """Tideline's own: who the client is (`storage.records`). Empty until it was authenticated."""
    verified_as: str = ""
    """Tideline's own: the user whom an auth plugin found out, where that is not the user name in CONNECT."""
    vouched_by: str = ""
    """Tideline's own: what an auth plugin's yes rests on, such as the key of a token."""
    valid_until: float = 0.0
    """Tideline's own: when what an auth plugin was shown ends, in seconds since 1970; 0 is never."""
    counts: tuple[int, int, int] = (0, 0, 0)
    """In flight from the client, in flight to it, waiting in its inbox."""
    _packet_id: int = 0

    def __init__(self, client_id: str | None = None) -> None:  # amqtt's own __init__ is what this class is there to avoid
        if client_id is not None:
            self.client_id = client_id

    @property
    def transitions(self) -> Transitions:
        return Transitions(self)

    @cached_property
    def attributes(self) -> dict[str, Any]:
        return {}

    @cached_property
    def inflight_out(self) -> OrderedDict[int, OutgoingApplicationMessage]:
        return OrderedDict()

    @cached_property
    def inflight_in(self) -> OrderedDict[int, IncomingApplicationMessage]:
        return OrderedDict()

    @cached_property
    def retained_messages(self) -> Queue[ApplicationMessage]:
        return Queue()

    @cached_property
    def delivered_message_queue(self) -> Queue[ApplicationMessage]:
        return Queue()

    @property
    def inflight_in_count(self) -> int:
        return self.counts[0]

    @property
    def inflight_out_count(self) -> int:
        return self.counts[1]

    @property
    def retained_messages_count(self) -> int:
        return self.counts[2]

    def __repr__(self) -> str:
        return f"Session(clientId={self.client_id}, state={self.state})"

    def __getstate__(self) -> dict[str, Any]:
        """Queues and TLS objects cannot be pickled and stay behind."""
        left_out = ("retained_messages", "delivered_message_queue", "ssl_object")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Session) and self.client_id == other.client_id

    __hash__ = None  # type: ignore[assignment]  # as in amqtt
