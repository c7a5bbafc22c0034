"""What the shared subscriptions use of the node that they are on; `broker.server` hands it in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from broker.clock import ServerTime, Wheel
    from broker.config import Settings
    from broker.delivery.delivery import Delivery
    from broker.delivery.shared_group import SharedGroup
    from broker.pipeline import Pipeline
    from broker.routing import Trie
    from broker.sessions import Session, Sessions
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
    def storage(self) -> Storage: ...

    @property
    def pipeline(self) -> Pipeline: ...

    @property
    def trie(self) -> Trie[Session | SharedGroup]: ...

    @property
    def sessions(self) -> Sessions: ...

    @property
    def delivery(self) -> Delivery: ...
