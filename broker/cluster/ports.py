"""What the cluster uses of the node that it is on; `broker.server` hands it in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from broker.clock import ServerTime, Wheel
    from broker.commits import Commits
    from broker.config import Settings
    from broker.connection import Connection
    from broker.counters import Counters
    from broker.delivery import Delivery, SharedGroup, SharedGroups
    from broker.pipeline import Pipeline
    from broker.routing import Subscriptions, Trie
    from broker.sessions import Channels, RetentionLock, Session, Sessions
    from storage.interface import Storage


class Node(Protocol):
    """The node."""

    @property
    def settings(self) -> Settings: ...

    @property
    def time(self) -> ServerTime: ...

    @property
    def clock(self) -> Wheel: ...

    @property
    def counters(self) -> Counters: ...

    @property
    def storage(self) -> Storage: ...

    @property
    def commits(self) -> Commits: ...

    @property
    def pipeline(self) -> Pipeline: ...

    def recalled(self, topic: str, ids: list[int], by: int) -> None:
        """Another node has committed a message that recalls others of its topic."""

    @property
    def trie(self) -> Trie[Session | SharedGroup]: ...

    @property
    def channels(self) -> Channels: ...

    @property
    def sessions(self) -> Sessions: ...

    @property
    def subscriptions(self) -> Subscriptions: ...

    @property
    def retention_lock(self) -> RetentionLock: ...

    @property
    def delivery(self) -> Delivery: ...

    @property
    def shared_groups(self) -> SharedGroups: ...

    @property
    def clients(self) -> int:
        """How many clients are connected."""

    @property
    def connections(self) -> set[Connection]: ...

    def stop_accepting(self) -> None:
        """Let no further client in."""

    def send_elsewhere(self, connection: Connection) -> None:
        """This node ends: tell a client."""

    def end(self) -> None:
        """Have the node end, as when it is told to stop."""

    def fenced(self, why: str) -> None:
        """This node was marked dead: it must acknowledge nothing more, and ends."""
