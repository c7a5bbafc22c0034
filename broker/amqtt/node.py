"""What plugins may reach of the node, through `ServerApi`. `broker.server.Server` is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

    from broker.access import AccessControl, Bans
    from broker.amqtt.plugin_host import PluginHost
    from broker.clock import ServerTime
    from broker.commits import Commits
    from broker.config import CertificateWatch, Origins, Reloaded, Settings
    from broker.connection import Clustered, Connection
    from broker.counters import Counters
    from broker.delivery import Delivery, SharedGroup, SharedGroups
    from broker.ids import Ids
    from broker.limits import Gate
    from broker.pipeline import Pipeline
    from broker.publish_path import PublishPath
    from broker.retained import Retained
    from broker.routing import Subscriptions, Trie
    from broker.sessions import Channels, RetentionLock, Session, Sessions
    from broker.trace import Tracer
    from storage.interface import Storage


class Node(Protocol):
    """A node that has started."""

    @property
    def settings(self) -> Settings: ...

    @property
    def certificates(self) -> CertificateWatch: ...

    @property
    def origins(self) -> Origins: ...

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
    def commits(self) -> Commits: ...

    @property
    def publish_path(self) -> PublishPath: ...

    @property
    def channels(self) -> Channels: ...

    @property
    def trie(self) -> Trie[Session | SharedGroup]: ...

    @property
    def retained(self) -> Retained: ...

    @property
    def sessions(self) -> Sessions: ...

    @property
    def shared_groups(self) -> SharedGroups: ...

    @property
    def subscriptions(self) -> Subscriptions: ...

    @property
    def delivery(self) -> Delivery: ...

    @property
    def retention_lock(self) -> RetentionLock: ...

    @property
    def gate(self) -> Gate: ...

    @property
    def access(self) -> AccessControl: ...

    @property
    def plugin_host(self) -> PluginHost: ...

    @property
    def bans(self) -> Bans: ...

    @property
    def connections(self) -> set[Connection]:
        """Every socket of a client, let in or not."""

    @property
    def traces(self) -> Tracer:
        """Who is followed."""

    @property
    def cluster(self) -> Clustered | None:
        """None where storage serves one node."""

    @property
    def clients(self) -> int:
        """How many clients are connected."""

    @property
    def clients_maximum(self) -> int:
        """How many were at once, at most."""

    @property
    def addresses(self) -> dict[str, tuple[str, int]]:
        """Where each listener listens."""

    @property
    def listening(self) -> bool:
        """Whether clients can connect."""

    @property
    def stopping(self) -> asyncio.Event:
        """Set once the node stops."""

    async def reload(self) -> Reloaded:
        """Read users, rules, certificates and the log anew."""
