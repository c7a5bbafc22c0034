"""The broker, put together: storage, pipeline, sessions, delivery, plugins and listeners.

Start: plugins are loaded, storage is opened (and recovers what a crash left), state is loaded, the pipeline starts, and
only then do the listeners open. Stop is the reverse, and acknowledges nothing that is not stored.

Over 300 lines: the parts are put together in one place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping

from broker.access import KIND as BANS
from broker.access import AccessControl
from broker.amqtt import BrokerEvents, PluginHost, ServerApi, intercepted
from broker.clock import ServerTime, Wheel
from broker.cluster import Cluster, shared_settings
from broker.commits import Commits
from broker.config import LEFT_OUT, CertificateWatch, Listener, Origins, Settings
from broker.connection import Connection, Node, SessionReaders, StorageTimeout, ban_of
from broker.delivery import ArrivalLog, ClusterRetained, Delivery, SharedGroups
from broker.errors import StartError
from broker.hooks import EnhancedAuthPlugin, GroupHooks
from broker.ids import Ids, time_of
from broker.net import Listeners
from broker.packets import ReasonCode, shown
from broker.pipeline import Pipeline
from broker.publish_path import PublishPath
from broker.reload import Reload
from broker.retained import Retained, RetainedExpiry, StoredRetained
from broker.routing import ChannelMembers, Subscriptions, Trie
from broker.sessions import Channels, Link, RetentionLock, Sessions
from broker.trace import Tracer
from storage.cluster import Joins
from storage.ending import end
from storage.errors import StorageInUse, StorageUnavailable
from storage.interface import lacks
from storage.records import DeviceKey

__all__ = ["Server", "StartError"]

log = logging.getLogger(__name__)


_LAST_SHARE = 0.2
"""How much of ``shutdown_grace`` is for what comes after the last group: sockets, plugins, and giving the storage back."""
_MOMENT = 0.4
"""Seconds that storage gets in any case to be closed, and again to give up what it was told to stop."""


class Server(Node):
    """One broker node. Make it and `start` it inside a running event loop."""

    def __init__(self, settings: Settings, time: ServerTime | None = None) -> None:
        super().__init__(settings, time)
        self.ids = Ids(time=self.time)
        self.trie = Trie(settings.limits.match_cache)
        self.origins = Origins(settings.origins)
        self.certificates = CertificateWatch()
        self.retained = Retained(settings.limits.retained_cache)
        self.sessions = Sessions(self)
        self.retention_lock = RetentionLock()
        self.shared_groups: SharedGroups = SharedGroups(self)
        self.api = ServerApi(self, SessionReaders(self))
        self.api.watch_settings(BANS, self._bans_changed)
        self.clients = 0
        self.clients_maximum = 0
        self.addresses: dict[str, tuple[str, int]] = {}
        self.plugin_host: PluginHost
        self.publish_path: PublishPath
        self.commits: Commits
        self.group_hooks: GroupHooks
        self.stored_retained: StoredRetained
        self._cluster: Cluster | None = None
        self._expiry: RetainedExpiry | None = None
        self._cluster_retained: ClusterRetained | None = None
        self._listeners: Listeners | None = None
        self._ended = asyncio.Event()
        self.reload = Reload(self)
        self.traces = Tracer(self._trace)
        self.failure: str = ""
        """Why the server ended by itself, if it did."""

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self, *, listen: bool = True, standby: bool = False) -> None:
        """Open everything; returns once clients can connect. Without ``listen`` nobody can: for jobs beside no broker.
        With ``standby`` it waits, for as long as it takes, until no other broker serves the data.

        Raises `StartError` for what the configuration or the machine must change, and `storage.errors.StorageError`.
        """
        settings = self.settings
        self.clock = Wheel(asyncio.get_running_loop())
        self.plugin_host = PluginHost(settings.plugin_classes(), self.api, hook_timeout=settings.hooks.timeout)
        self.access = AccessControl(
            self.plugin_host.plugins,
            timeout=settings.hooks.timeout,
            acl_cache_seconds=settings.hooks.acl_cache_seconds,
            login_cache_seconds=settings.hooks.login_cache_seconds,
            patience=settings.mqtt.connect_timeout,
        )
        self.openness = self.access.openness
        self.access.authentication.outsiders = any(listener.identity for listener in settings.listeners) or any(
            plugin not in self.plugin_host.plugins.auth_plugins for plugin in self.plugin_host.auth_methods.values()
        )
        for group_plugin in self.plugin_host.group_plugins:
            self.access.stand_ins.add(group_plugin.stand_ins)
        self.requests = self.plugin_host.request_plugin
        self.spans = self.plugin_host.span_plugin
        if self.plugin_host.storage_plugin is None:  # nothing is lost because nobody said where to keep it
            raise StartError(f"persistence: {LEFT_OUT['persistence']}")
        if self.plugin_host.sync_plugin is None:
            raise StartError(f"sync: {LEFT_OUT['sync']}")
        self.storage = self.plugin_host.storage_plugin.storage()
        if isinstance(self.storage, Joins):
            self.storage.cluster_settings = shared_settings(settings)
        if missing := lacks(self.storage):
            plugin = type(self.plugin_host.storage_plugin).__name__
            raise StartError(f"plugins: {plugin}: its storage lacks {', '.join(missing)}: see storage/interface.py")
        try:
            await self.plugin_host.fire_and_wait(BrokerEvents.PRE_START)
            await self._open_storage(standby=standby)
            self._build()
            await self._load()
            self.pipeline.start()
            self.clock.start()
            if self._cluster is not None:
                await self._cluster.start()
            self._expiry = RetainedExpiry(self.retained, self.storage, self.time, self.clock, self.pipeline.submit)
            self.sessions.start()
            await self.api.stored_settings.start(self.storage, self.clock)
            StorageTimeout(self.pipeline, self.commits, self.clock, settings.mqtt.storage_timeout)
            await self.commits.watch(self.clock)
            if listen:
                await self._open_listeners()
            await self.plugin_host.fire_and_wait(BrokerEvents.POST_START)
        except BaseException:
            await self.stop()
            raise

    async def _open_storage(self, *, standby: bool) -> None:
        deadline = time.monotonic() + 30
        holder = ""
        while True:
            try:
                await self.storage.open()
                return
            except StorageInUse as error:
                if not standby:
                    raise
                if str(error) != holder:
                    holder = str(error)
                    log.info("standing by: %s", holder)
            except StorageUnavailable as error:
                # A database that starts together with the broker gets a moment to come up.
                if not standby and time.monotonic() >= deadline:
                    raise
                log.warning("storage is not available yet: %s", error)
            await asyncio.sleep(0.5)

    def _build(self) -> None:
        settings = self.settings
        self.delivery = Delivery(self.storage, self.trie, self.access, self.counters, settings.limits, self.time)
        self.commits = Commits(self.storage, self.counters, self.fenced)
        self.group_hooks = GroupHooks(
            self.plugin_host.group_plugins,
            self.counters,
            timeout=settings.hooks.timeout,
            after_queue=settings.hooks.after_queue,
        )
        self.publish_path = PublishPath(
            self.ids,
            self.trie,
            self.retained,
            self.group_hooks,
            self.commits,
            self.delivery,
            self.plugin_host,
            self.counters,
        )
        self.publish_path.spans = self.spans
        self.pipeline = Pipeline(self.publish_path, pending_bytes=settings.limits.pending_bytes, failed=self.fenced)
        self.stored_retained = StoredRetained(self.retained, self.storage, self.stopping)
        policy = self.plugin_host.storage_plugin
        assert policy is not None
        self.channels = Channels(policy.read_fanout(), policy.read_fanout_of)
        if self.channels.used:
            self.trie.channel_of = self.channels.of
        self.channel_members = ChannelMembers(self.channels, self.delivery, self._oldest_epoch)
        self.subscriptions = Subscriptions(
            limits=settings.mqtt,
            newest=self._newest,
            time=self.time,
            trie=self.trie,
            retained=self.retained,
            stored_retained=self.stored_retained,
            groups=self.shared_groups,
            channels=self.channel_members,
            access=self.access,
            counters=self.counters,
            retained_delivery=self.delivery,
            events=self.plugin_host,
            submit=self.pipeline.submit,
        )
        self.delivery.pipeline = self.pipeline
        self.delivery.shared_groups = self.shared_groups
        shared = self.storage.cluster
        if shared is not None:
            self.ids.number(shared.me.number)
            self.cluster = self._cluster = self.publish_path.others = Cluster(self, shared)
            self.shared_groups = self.subscriptions.groups = self.delivery.shared_groups = self._cluster.groups
            self.publish_path.superseded = self._cluster.takeover.superseded
            self.api.readers = self._cluster.readers
            self.api.joined()
            self.delivery.log, self.delivery.number = ArrivalLog(), shared.me.number
            self.subscriptions.interest = self._cluster.interest
            self.retained.in_cluster()
            self.subscriptions.cluster_retained = self._cluster_retained = ClusterRetained(
                self.stored_retained, self.storage, self.delivery.log, self.time, self.pipeline.submit
            )

    def _oldest_epoch(self) -> int:
        return 0 if self._cluster is None else self._cluster.time()

    def _newest(self) -> int:
        return self.ids.last if self.delivery.log is None else self.delivery.tail.seq

    async def _load(self) -> None:
        if self._cluster is not None:
            await self._cluster.before_loading()
        last = await self.storage.last_id()
        self.ids.start_after(last)
        if self._cluster is None:
            self.time.not_before(time_of(last))
            self.delivery.last_id = last
        await self.stored_retained.load()
        await self.sessions.load()
        await self.shared_groups.loaded()
        log.info("loaded %d sessions, %d retained messages", len(self.sessions), self.retained.count)

    async def _open_listeners(self) -> None:
        settings = self.settings
        self._listeners = Listeners(
            max_packet_size=settings.mqtt.max_packet_size,
            connect_timeout=settings.mqtt.connect_timeout,
            clock=self.clock,
            counters=self.counters,
            origins=self.origins,
            certificates=self.certificates,
            max_connections=settings.limits.max_connections,
            pause=self.gate.pace.wait,
        )
        make = intercepted(self.plugin_host, lambda *client: Connection(self, *client))
        opened = await self._listeners.open(settings.listeners, make)
        self.addresses = {name: addresses[0] for name, addresses in opened.items()}

    @property
    def listening(self) -> bool:
        """Whether clients can connect."""
        return self._listeners is not None

    async def renew_certificate(self, listener: Listener) -> None:
        """Use these certificate files for the listener's handshakes from now on. Raises `StartError` and keeps the old ones."""
        if self._listeners is not None:
            await self._listeners.renew(listener)

    async def serve_forever(self) -> None:
        """Wait until `stop` was called, or the server had to end by itself (``failure`` then says why)."""
        await self._ended.wait()

    def fenced(self, why: str = "another node serves this database now") -> None:
        """This node may not write any more: it ends."""
        self.failure = self.failure or why
        self._ended.set()

    def end(self) -> None:
        """Have `serve_forever` return: the node has left its cluster."""
        self._ended.set()

    def recalled(self, topic: str, ids: list[int], by: int) -> None:
        """See `broker.cluster.ports.Node`."""
        self.publish_path.forget(topic, ids, by)

    def stop_accepting(self) -> None:
        """Let no further client in."""
        if self._listeners is not None:
            self._listeners.stop_accepting()

    def send_elsewhere(self, connection: Connection) -> None:
        """This node ends: tell a client, and which server to use instead where that is configured. Where it leaves a cluster,
        the others are there, maybe at the same address (MQTT 5, 4.11: a Server Reference is optional)."""
        mqtt = self.settings.mqtt
        if mqtt.server_reference:
            code = mqtt.elsewhere
        elif self._cluster is not None and self._cluster.leaving.begun:
            code = ReasonCode.USE_ANOTHER_SERVER
        else:
            code = ReasonCode.SERVER_SHUTTING_DOWN
        connection.disconnect(code, "the server is shutting down")

    async def stop(self) -> None:
        """Say goodbye to the clients, store what was accepted and where every device stands, close everything.

        ``shutdown_grace`` is for all of it together.
        """
        grace = self.settings.mqtt.shutdown_grace
        deadline = time.monotonic() + grace
        last = deadline - grace * _LAST_SHARE
        self.stopping.set()
        if self._listeners is not None:
            self.stop_accepting()
            await self.plugin_host.fire_and_wait(BrokerEvents.PRE_SHUTDOWN)
            for _ in range(2):  # the sockets are looked at, then read: whose DISCONNECT has come has no will any more
                await asyncio.sleep(0)
            for connection in list(self.connections):
                self.send_elsewhere(connection)
        await self.sessions.stop()
        await self.api.stored_settings.stop()
        await self.api.following.close()
        if self._cluster_retained is not None:
            await self._cluster_retained.stop()
        if self._cluster is not None:
            await self._cluster.groups.give_back(max(0.0, last - time.monotonic()))
        if hasattr(self, "pipeline"):
            self.delivery.flush()
            await self.pipeline.stop(max(0.0, last - time.monotonic()))
            await self.group_hooks.close()
            self.delivery.close()
        if self._cluster is not None:
            await self._cluster.stop()
        self.clock.stop()
        if hasattr(self, "commits"):
            await self.commits.stop()
        if self._expiry is not None:
            await self._expiry.stop()
        if self._listeners is not None:
            await self._drain_sockets(min(deadline - grace * _LAST_SHARE / 2, time.monotonic() + 1.0))
            await self._listeners.close()
            self._listeners = None
            await self.plugin_host.fire_and_wait(BrokerEvents.POST_SHUTDOWN)
        await self.plugin_host.close()
        await self.certificates.close()
        self.access.close()
        await self._close_storage(max(_MOMENT, deadline - _MOMENT - time.monotonic()))
        self._ended.set()

    async def _close_storage(self, patience: float) -> None:
        closing = asyncio.create_task(self.storage.close(), name="close storage")
        done, _ = await asyncio.wait([closing], timeout=patience)
        if not done:
            await end([closing], again=_MOMENT)
            log.warning("storage did not answer while it was closed: the next start finishes what is unfinished")
            return
        closing.result()

    async def _drain_sockets(self, deadline: float) -> None:
        """Give what was written last a moment to leave."""
        while self.connections and time.monotonic() < deadline:
            await asyncio.sleep(0.01)

    def _trace(self, tracer: Tracer | None) -> None:
        """Somebody follows a client or a topic from now on; or nobody does."""
        self.tracer = self.publish_path.tracer = tracer

    # --- what handlers ask -------------------------------------------------------------------------------------------

    @property
    def auth_methods(self) -> Mapping[str, EnhancedAuthPlugin]:
        """Enhanced authentication: the plugin of each method."""
        return self.plugin_host.auth_methods

    def start_position(self) -> str:
        """Where a device that never connected before starts in its user's inbox."""
        plugin = self.plugin_host.sync_plugin
        assert plugin is not None
        return str(plugin.start_position())

    # --- what plugins are told ---------------------------------------------------------------------------------------

    def _bans_changed(self, bans: Mapping[str, bytes], changed: Collection[str]) -> None:
        """Keep to these from now on, also with those who are here. DISCONNECT has no code for banned [MQTT-3.14.2-1]."""
        self.bans.put(bans)
        now = self.time.now()

        def banned(one: Connection) -> bool:
            return ban_of(one, now, one.info.identity.user_key) is not None

        self.api.clients.disconnect(banned, ReasonCode.ADMINISTRATIVE_ACTION, "banned")

    def claimed(self, key: DeviceKey) -> None:
        """A reader over HTTP has made a device."""
        self.plugin_host.device_opened(key)

    def connected(self, connection: Connection) -> None:
        """A client got its CONNACK."""
        self.clients += 1
        self.clients_maximum = max(self.clients_maximum, self.clients)
        self.plugin_host.client_connected(connection.info)
        if log.isEnabledFor(logging.DEBUG):
            user = shown(connection.info.identity.user_key)
            log.debug("connected: %s as %s", connection.name, user, extra=connection.about)

    def opening(self, connection: Link) -> None:
        """A client's session is submitted to be opened; its CONNACK follows when that is durable."""
        self.plugin_host.client_opening(connection, connection.info)

    def disconnected(self, connection: Link, *, was_open: bool) -> None:
        """A client's connection ended."""
        self.plugin_host.client_ended(connection, connection.info)
        if was_open:
            self.clients -= 1
            self.plugin_host.client_disconnected(connection.info)
