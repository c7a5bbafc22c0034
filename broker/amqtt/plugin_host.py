"""amqtt's plugin manager over our server: what config.yaml names is loaded, told what happens, and closed at the end.

Plugins see amqtt's `BrokerContext`, and behind it a stand-in for amqtt's broker that answers from a `BrokerApi`. Our own
plugins find that view itself as ``context.server``.

Events go to those plugins that listen, in the order in which they happened, through one bounded queue and one task: a
slow plugin delays the others' events, never a client. Where nobody listens, firing costs a look-up.

Over 300 lines: amqtt's plugin manager has one face, and every event is a method of it.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from amqtt.errors import PluginError, PluginLoadError
from amqtt.events import BrokerEvents, Events, MQTTEvents
from amqtt.plugins.authentication import FileAuthPlugin
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.plugins.logging_amqtt import EventLoggerPlugin, PacketLoggerPlugin
from amqtt.plugins.manager import PluginManager
from amqtt.session import IncomingApplicationMessage

from broker.access import OWN, Hiding, SessionInfo
from broker.amqtt.api import BrokerApi
from broker.amqtt.broker_context import Callback, TidelineContext, retained_message
from broker.amqtt.packets import to_amqtt
from broker.config import checked, plugin_class
from broker.errors import StartError
from broker.hooks import (
    ONLY_ONE,
    EnhancedAuthPlugin,
    GroupPlugin,
    JobPlugin,
    RequestPlugin,
    SessionPlugin,
    SpanPlugin,
    StoragePlugin,
    SyncPlugin,
)
from broker.packets import Packet
from broker.plugin_call import answer_of
from broker.rate_limited_log import RateLimitedLog
from storage.records import DeviceKey, Message

__all__ = ["BrokerEvents", "MQTTEvents", "PluginHost", "Plugins", "TidelineContext"]

logger = logging.getLogger(__name__)

NAMESPACE = "broker.plugins"
"""The logger of the plugin manager; a plugin's own is below it, by its class name."""

_LOGGED_AT_DEBUG = frozenset(BrokerEvents) - {BrokerEvents.CLIENT_CONNECTED, BrokerEvents.CLIENT_DISCONNECTED}
# What amqtt 0.12 warns of and its users can do nothing about: psutil's future, and an option whose successor it refuses.
_NOT_FOR_US = ("psutil", "'subscribe-acl'")
# amqtt's plugins that have no state beyond their settings, and no events: a reload builds them anew.
_RELOADABLE = {
    ("amqtt.plugins.authentication", "AnonymousAuthPlugin"),
    ("amqtt.plugins.authentication", "FileAuthPlugin"),
    ("amqtt.plugins.topic_checking", "TopicAccessControlListPlugin"),
    ("amqtt.plugins.topic_checking", "TopicTabooPlugin"),
    ("amqtt.contrib.jwt", "UserAuthJwtPlugin"),
    ("amqtt.contrib.jwt", "TopicAuthJwtPlugin"),
}
_FIXED = (GroupPlugin, SessionPlugin, StoragePlugin, SyncPlugin, RequestPlugin, JobPlugin, SpanPlugin)


# --- what plugins see ----------------------------------------------------------------------------------------------


class Plugins(PluginManager):
    """amqtt's plugin manager, with what it loaded in the open."""

    @property
    def auth_plugins(self) -> Sequence[Any]:
        return self._auth_plugins

    @property
    def topic_plugins(self) -> Sequence[Any]:
        return self._topic_plugins

    def put(self, plugins: Sequence[Any]) -> None:
        """Have these plugins from now on, in this order."""
        self._plugins[:] = plugins
        self._auth_plugins = [plugin for plugin in plugins if isinstance(plugin, BaseAuthPlugin)]
        self._topic_plugins = [plugin for plugin in plugins if isinstance(plugin, BaseTopicPlugin)]

    @property
    def callbacks(self) -> Mapping[str, list[Callback]]:
        """The plugins' coroutines by event name."""
        return self._event_plugin_callbacks  # type: ignore[no-any-return]


# --- the plugin host ---------------------------------------------------------------------------------------------------


class PluginHost:
    """Loads the plugins (inside a running loop) and carries events to them.

    ``plugins`` is class path → settings, in order (`Settings.plugin_classes`). ``hook_timeout`` is in seconds, per
    plugin and event. Raises `StartError` naming the plugin that cannot be loaded, and why.
    """

    def __init__(
        self,
        plugins: Mapping[str, Mapping[str, Any]],
        server: BrokerApi,
        *,
        hook_timeout: float = 5.0,
        event_queue: int = 10_000,
    ) -> None:
        self._server = server
        self._timeout = hook_timeout
        self._queue: asyncio.Queue[Callback | None] = asyncio.Queue(event_queue)
        self._worker: asyncio.Task[None] | None = None
        self._overrun = RateLimitedLog(logger, 10.0)
        self.context = TidelineContext(server, self._later)
        self.plugins = _load(plugins, self.context)
        self.by_path: dict[str, Any] = dict(zip(plugins, self.plugins.plugins, strict=True))
        """Class path → plugin, in the order of config.yaml."""
        self._callbacks = _listeners(self.plugins.callbacks)

        loaded = self.plugins.plugins
        self.group_plugins: list[GroupPlugin] = [plugin for plugin in loaded if isinstance(plugin, GroupPlugin)]
        """In the order of config.yaml."""
        self.session_plugins = [plugin for plugin in loaded if isinstance(plugin, SessionPlugin)]
        self.hiding = [plugin for plugin in loaded if isinstance(plugin, Hiding)]
        self.storage_plugin = _only(loaded, StoragePlugin)
        self.sync_plugin = _only(loaded, SyncPlugin)
        self.request_plugin = _only(loaded, RequestPlugin)
        self.job_plugin = _only(loaded, JobPlugin)
        self.span_plugin = _only(loaded, SpanPlugin)
        self.auth_methods = _methods(plugin for plugin in loaded if isinstance(plugin, EnhancedAuthPlugin))
        """Enhanced authentication: the plugin of each method."""

    # --- reload ----------------------------------------------------------------------------------------------------

    def renewable(self, path: str) -> bool:
        """Whether plugins of this class path can be built anew, added and removed while the broker runs."""
        try:
            found = plugin_class(path)
        except StartError:
            return False
        if not issubclass(found, BaseAuthPlugin | BaseTopicPlugin) or issubclass(found, _FIXED):
            return False
        return bool(getattr(found, "reloadable", (found.__module__, found.__name__) in _RELOADABLE))

    async def renew(self, plugins: Mapping[str, Mapping[str, Any]]) -> list[Any]:
        """Build all that are `renewable` anew, and have them in this order from now on; the caller `retire`s those returned.

        Raises `StartError` naming what cannot be loaded, and nothing has changed. The others must be those of the start.
        """
        wanted = {path: options for path, options in plugins.items() if self.renewable(path)}
        loop = asyncio.get_running_loop()
        built = await asyncio.to_thread(_load, wanted, copy.copy(self.context), loop)
        by_path = dict(zip(wanted, built.plugins, strict=True))
        together = {path: by_path.get(path) or self.by_path[path] for path in plugins}
        methods = _methods(plugin for plugin in together.values() if isinstance(plugin, EnhancedAuthPlugin))
        gone = [plugin for path, plugin in self.by_path.items() if together.get(path) is not plugin]
        self.by_path, self.auth_methods = together, methods
        self.plugins.put(list(together.values()))
        return gone

    async def retire(self, plugins: Iterable[Any]) -> None:
        """Close plugins that nobody asks any more."""
        for plugin in plugins:
            await self._call(plugin.close)

    def credentials(self) -> dict[str, Mapping[str, str]]:
        """Class path → user name → what the user is known by, of the plugins that can be built anew and say so."""
        found = {}
        for path, plugin in self.by_path.items():
            users = plugin._users if isinstance(plugin, FileAuthPlugin) else getattr(plugin, "credentials", None)
            if users is not None and self.renewable(path):
                found[path] = users
        return found

    # --- what is hidden ----------------------------------------------------------------------------------------------

    def of_members(self, topic: str) -> bool:
        """Whether a topic, or a filter, is one of those whose beginning may be hidden from some, and is its members' alone."""
        return any(plugin.governs(topic) for plugin in self.hiding)

    async def hidden(self, user: str, topic: str) -> int:
        """The last sequence of a topic that a user is not to be given. Raises `StorageError`."""
        return max([await plugin.hidden(user, topic) for plugin in self.hiding if plugin.governs(topic)], default=0)

    # --- events ----------------------------------------------------------------------------------------------------

    def listens(self, event: str) -> bool:
        """Whether any plugin wants to know. Fixed once the plugins are loaded: ask once, keep the answer."""
        return event in self._callbacks

    def fire(self, event: str, **arguments: Any) -> None:
        """Tell the listeners soon. Never waits: with the queue full, the event is dropped and counted."""
        for callback in self._callbacks.get(event, ()):
            self._later(partial(callback, **arguments))

    async def fire_and_wait(self, event: Events) -> None:
        """Tell the listeners now, one after the other, each within the time limit: for the broker's start and stop.

        A plugin's `StartError` is raised while the broker starts, and ends it.
        """
        starting = StartError if event in (BrokerEvents.PRE_START, BrokerEvents.POST_START) else ()
        for callback in self._callbacks.get(event, ()):
            await self._call(callback, raises=starting)

    def client_opening(self, connection: object, info: SessionInfo) -> None:
        """A client's session is about to be opened."""
        for plugin in self.session_plugins:
            plugin.opening(connection, info)

    def client_ended(self, connection: object, info: SessionInfo) -> None:
        """The connection of one has ended, whether or not the client got its CONNACK."""
        for plugin in self.session_plugins:
            plugin.ended(connection, info)

    def client_connected(self, info: SessionInfo) -> None:
        self.device_opened(DeviceKey(info.identity.user_key, info.client_id))
        if BrokerEvents.CLIENT_CONNECTED in self._callbacks:
            self.fire(BrokerEvents.CLIENT_CONNECTED, client_id=info.client_id, client_session=info.session)

    def device_opened(self, device: DeviceKey) -> None:
        """A client is connected, or a reader over HTTP has made its device."""
        for plugin in self.session_plugins:
            plugin.opened(device)

    def client_disconnected(self, info: SessionInfo) -> None:
        if info.seen is not None:
            info.session.transitions.disconnect()
        if BrokerEvents.CLIENT_DISCONNECTED in self._callbacks:
            self.fire(BrokerEvents.CLIENT_DISCONNECTED, client_id=info.client_id, client_session=info.session)

    def client_subscribed(self, device: DeviceKey, filter: str, qos: int) -> None:
        """A device has a filter, whoever asked for it."""
        if self.request_plugin is not None and filter.startswith(OWN):
            self.request_plugin.listening(device, filter)
        if BrokerEvents.CLIENT_SUBSCRIBED in self._callbacks:
            self.fire(BrokerEvents.CLIENT_SUBSCRIBED, client_id=device.client_id, topic=filter, qos=qos)

    def client_unsubscribed(self, device: DeviceKey, filter: str) -> None:
        if BrokerEvents.CLIENT_UNSUBSCRIBED in self._callbacks:
            self.fire(BrokerEvents.CLIENT_UNSUBSCRIBED, client_id=device.client_id, topic=filter)

    def message_received(self, info: SessionInfo, message: Message, packet_id: int = 0) -> None:
        """A client sent a message; whether it may is not known yet."""
        if BrokerEvents.MESSAGE_RECEIVED in self._callbacks:
            self._message(BrokerEvents.MESSAGE_RECEIVED, info, message, packet_id)

    def message_broadcast(self, info: SessionInfo, message: Message, packet_id: int = 0) -> None:
        """A client's message is accepted, durable, and on its way to subscribers."""
        if BrokerEvents.MESSAGE_BROADCAST in self._callbacks:
            self._message(BrokerEvents.MESSAGE_BROADCAST, info, message, packet_id)

    def _message(self, event: str, info: SessionInfo, message: Message, packet_id: int) -> None:
        number = packet_id or None
        built = IncomingApplicationMessage(number, message.topic, message.qos, message.payload, message.retain)
        built.publish_packet = built.build_publish_packet()
        self.fire(event, client_id=info.client_id, message=built)

    def retained(self, message: Message) -> None:
        """A topic has a new retained message, or with an empty payload none any more."""
        if BrokerEvents.RETAINED_MESSAGE in self._callbacks:
            self.fire(BrokerEvents.RETAINED_MESSAGE, client_id=None, retained_message=retained_message(message))

    def packet_received(self, info: SessionInfo | None, packet: Packet) -> None:
        """``info`` is None before a client is let in. Callers ask `listens` first: a packet costs time to build."""
        self._packet(MQTTEvents.PACKET_RECEIVED, info, packet)

    def packet_sent(self, info: SessionInfo | None, packet: Packet) -> None:
        self._packet(MQTTEvents.PACKET_SENT, info, packet)

    def _packet(self, event: str, info: SessionInfo | None, packet: Packet) -> None:
        if event not in self._callbacks:
            return
        built = to_amqtt(packet)
        if built is not None:
            self.fire(event, packet=built, session=info.session if info is not None else None)

    # --- the queue -------------------------------------------------------------------------------------------------

    def _later(self, call: Callback) -> None:
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work(), name="plugin events")
        try:
            self._queue.put_nowait(call)
        except asyncio.QueueFull:
            self._server.counters.events_dropped += 1
            self._overrun.warning("plugins are too slow: %d events wait, more are dropped", self._queue.qsize())

    async def _work(self) -> None:
        while (call := await self._queue.get()) is not None:
            await self._call(call)

    async def _call(self, call: Callback, *, raises: type[Exception] | tuple[()] = ()) -> None:
        """One plugin's turn. It may take its time limit and may fail; neither reaches anybody else, but for what ``raises``."""
        try:
            async with asyncio.timeout(self._timeout):
                await answer_of(call())
        except raises:
            raise
        except TimeoutError:
            self._server.counters.hook_errors += 1
            logger.error("%s took longer than %g s", _named(call), self._timeout)
        except Exception:
            self._server.counters.hook_errors += 1
            logger.exception("%s failed", _named(call))

    async def close(self) -> None:
        """Carry out the events that wait, within the time limit for all of them, then close the plugins, last loaded first."""
        if self._worker is not None:
            try:
                async with asyncio.timeout(self._timeout):
                    await self._queue.put(None)
                    await asyncio.shield(self._worker)
            except TimeoutError:
                logger.warning("%d plugin events were not carried out", self._queue.qsize())
                self._worker.cancel()
                await asyncio.gather(self._worker, return_exceptions=True)
            self._worker = None
        for plugin in reversed(self.plugins.plugins):
            await self._call(plugin.close)


def _named(call: Callback) -> str:
    """A callback for a log: its plugin's class and what it listens to."""
    while isinstance(call, partial):
        call = call.func
    return str(getattr(call, "__qualname__", call))


def _load(
    plugins: Mapping[str, Mapping[str, Any]], context: TidelineContext, loop: asyncio.AbstractEventLoop | None = None
) -> Plugins:
    """Let amqtt load the plugins, and say in one sentence what was wrong if it can't."""
    context.config = {"plugins": {path: checked(path, options) for path, options in plugins.items()}}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loaded = Plugins(NAMESPACE, context, loop)
    except (PluginError, PluginLoadError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = str(error) if cause is error else f"{error}: {cause}"
        raise StartError(f"plugins: {reason}") from error
    for warning in caught:
        if not any(part in str(warning.message) for part in _NOT_FOR_US):
            logger.warning("plugins: %s", warning.message)
    return loaded


def _listeners(callbacks: Mapping[str, list[Callback]]) -> dict[str, list[Callback]]:
    """Who listens to what. amqtt's loggers would log most of it at DEBUG: where that is off, they are not called at all."""
    found: dict[str, list[Callback]] = {}
    for event, wanted in callbacks.items():
        kept = [callback for callback in wanted if not _in_vain(event, callback)]
        if kept:
            found[event] = kept
    return found


def _in_vain(event: str, callback: Any) -> bool:
    plugin = getattr(getattr(callback, "func", callback), "__self__", None)
    if type(plugin) not in (EventLoggerPlugin, PacketLoggerPlugin) or plugin is None:
        return False
    quiet = not plugin.context.logger.isEnabledFor(logging.DEBUG)
    return quiet and (event in _LOGGED_AT_DEBUG or event in frozenset(MQTTEvents))


def _only(plugins: Iterable[Any], kind: type[Any]) -> Any | None:
    found = [plugin for plugin in plugins if isinstance(plugin, kind)]
    if len(found) > 1:
        names = ", ".join(type(plugin).__name__ for plugin in found)
        raise StartError(f"plugins: {names}: only one plugin {ONLY_ONE[kind]}")
    return found[0] if found else None


def _methods(plugins: Iterable[EnhancedAuthPlugin]) -> dict[str, EnhancedAuthPlugin]:
    found: dict[str, EnhancedAuthPlugin] = {}
    for plugin in plugins:
        if not plugin.methods:
            raise StartError(f"plugins: {type(plugin).__name__}: names no authentication method")
        for method in plugin.methods:
            other = found.setdefault(method, plugin)
            if other is not plugin:
                names = f"{type(other).__name__}, {type(plugin).__name__}"
                raise StartError(f"plugins: {names}: only one plugin offers the method {method!r}")
    return found
