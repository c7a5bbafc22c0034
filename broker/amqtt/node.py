"""What plugins may reach of the node, through `ServerApi`. `broker.server.Server` is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from broker.access import AccessControl
    from broker.amqtt.plugin_host import PluginHost
    from broker.clock import ServerTime
    from broker.config import Reloaded, Settings
    from broker.counters import Counters
    from broker.delivery import Delivery, Share, Shares
    from broker.ids import Ids
    from broker.pipeline import Pipeline
    from broker.publish_path import PublishPath
    from broker.routing import Retained, Subscriptions, Trie
    from broker.sessions import OldEnd, Session, Sessions
    from storage.interface import Storage


class Node(Protocol):
    """A node that has started."""

    @property
    def settings(self) -> Settings: ...

    @property
    def counters(self) -> Counters: ...

    @property
    def time(self) -> ServerTime: ...

    @property
    def ids(self) -> Ids: ...

    @property
    def storage(self) -> Storage: ...

    @property
    def pipeline(self) -> Pipeline: ...

    @property
    def publish_path(self) -> PublishPath: ...

    @property
    def trie(self) -> Trie[Session | Share]: ...

    @property
    def retained(self) -> Retained: ...

    @property
    def sessions(self) -> Sessions: ...

    @property
    def shares(self) -> Shares: ...

    @property
    def subscriptions(self) -> Subscriptions: ...

    @property
    def delivery(self) -> Delivery: ...

    @property
    def old_end(self) -> OldEnd: ...

    @property
    def access(self) -> AccessControl: ...

    @property
    def plugin_host(self) -> PluginHost: ...

    @property
    def clients(self) -> int:
        """How many clients are connected."""

    @property
    def clients_maximum(self) -> int:
        """How many were at once, at most."""

    @property
    def listening(self) -> bool:
        """Whether clients can connect."""

    @property
    def stopping(self) -> asyncio.Event:
        """Set once the node stops."""

    async def reload(self) -> Reloaded:
        """Read users, rules, certificates and the log anew."""
