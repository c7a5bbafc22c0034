"""What `Sessions` uses of the rooms above it; `broker.server` hands it in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from broker.clock import ServerTime, Wheel
    from broker.config import Settings
    from broker.counters import Counters
    from broker.pipeline import Pipeline
    from broker.sessions.link import Link, OutboundPort
    from broker.sessions.old_end import OldEnd
    from broker.sessions.session import Session
    from broker.sessions.sessions import Sessions
    from storage.interface import Storage
    from storage.records import Device, Operation


class Delivery(Protocol):
    """What delivers to sessions that are connected."""

    def attach(self, session: Session, head: int) -> OutboundPort:
        """Serve the session's connection; ``head`` is its inbox's as of the commit that opened it."""

    def detach(self, session: Session) -> None:
        """The session's connection ended."""

    def unsaved(self, session: Session) -> bool:
        """Whether the session's offset moved, and is still to be stored."""

    def save(self, session: Session) -> object:
        """Store the session's progress with the next group."""


class Groups(Protocol):
    """The shared subscriptions."""

    def load(self, device: Device) -> None:
        """Take a stored group up again."""

    def detach(self, session: Session) -> None:
        """A member's connection ended."""


class Subscriptions(Protocol):
    """The one way in which filters enter a session and leave it."""

    def load(self, session: Session) -> None:
        """Take up a stored session's filters."""

    def put_away(self, session: Session) -> None:
        """The session is kept in storage alone."""

    def ended(self, session: Session) -> list[Operation]:
        """The session ends: its filters match no more. What is to be stored for that."""


class Filters(Protocol):
    """The filters of all sessions."""

    def add_aside(self, filter_: str, inbox: str) -> None:
        """A filter of a session that is in storage alone."""


class Node(Protocol):
    """The node that the sessions are on."""

    @property
    def settings(self) -> Settings: ...

    @property
    def time(self) -> ServerTime: ...

    @property
    def clock(self) -> Wheel: ...

    @property
    def counters(self) -> Counters: ...

    @property
    def pipeline(self) -> Pipeline: ...

    @property
    def old_end(self) -> OldEnd: ...

    @property
    def storage(self) -> Storage: ...

    @property
    def trie(self) -> Filters: ...

    @property
    def sessions(self) -> Sessions: ...

    @property
    def delivery(self) -> Delivery: ...

    @property
    def shares(self) -> Groups: ...

    @property
    def subscriptions(self) -> Subscriptions: ...

    def start_position(self) -> str:
        """Where a device that never connected before starts in its user's inbox."""

    def disconnected(self, connection: Link, *, was_open: bool) -> None:
        """A client's connection ended."""
