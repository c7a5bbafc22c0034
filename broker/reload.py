"""Reload: users, access rules, certificates and the log, without a connection more than must be lost.

- config.yaml is read again. What a running broker cannot take over is named, and waits for the next start.
- Plugins that say who a client is and what it may do are built anew, all or none, if they are ``reloadable``: their files are
  read then. What was remembered of answers is forgotten.
- A user who is gone, or known by something else now, is disconnected; what such a client may do is asked anew.
- A certificate, and the list of origins, count for handshakes from then on.
- What is wrong is told, and leaves what it is about as it was. Where a plugin would not start with its settings, the whole
  configuration stays as it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from broker.amqtt import unguarded
from broker.config import ALIASES, ConfigError, Log, Reloaded, Settings, plugin_class, plugin_problems, taken_over
from broker.connection import end_connections
from broker.errors import StartError

if TYPE_CHECKING:
    from broker.access import AccessControl
    from broker.amqtt import PluginHost, ServerApi
    from broker.config import Listener, Origins
    from broker.connection import Connection

log = logging.getLogger(__name__)

_RENEWED = {"renew_certificate": "certificate", "renew_secret": "operator secret"}
"""What a plugin may read again, by the method that does it and returns whether there was anything to."""
_WHY = "the user was removed, or has another password now"


class Node(Protocol):
    """What of a node is reloaded."""

    settings: Settings

    @property
    def plugin_host(self) -> PluginHost: ...

    @property
    def api(self) -> ServerApi: ...

    @property
    def access(self) -> AccessControl: ...

    @property
    def origins(self) -> Origins: ...

    @property
    def connections(self) -> set[Connection]: ...

    async def renew_certificate(self, listener: Listener) -> None:
        """Use these certificate files for the listener's handshakes from now on. Raises `StartError` and keeps the old ones."""


class Reload:
    """Reloads a server, once at a time.

    ``read`` gives the settings anew and may block; it raises `ConfigError`. Without it the files that the settings name are
    read again. ``configure_log`` makes a changed ``log`` section hold.
    """

    def __init__(self, server: Node) -> None:
        self._server = server
        self.read: Callable[[], Settings] | None = None
        self.configure_log: Callable[[Log], None] | None = None
        self._turn = asyncio.Lock()

    async def __call__(self) -> Reloaded:
        """Never raises on account of what is in the files."""
        async with self._turn:
            report = Reloaded()
            settings = await self._settings(report)
            if await self._plugins_are_right(settings, report):
                settings, report.restart = taken_over(self._server.settings, settings, self._server.plugin_host.renewable)
                await self._plugins(settings, report)
            else:
                settings = self._server.settings  # the certificates that it names are read again all the same
            await self._certificates(settings, report)
            self._origins(settings, report)
            self._log(settings, report)
        for line in report.done:
            log.info("reloaded: %s", line)
        for line in report.failed:
            log.error("not reloaded, it stays as it was: %s", line)
        if report.restart:
            log.warning("changed, but needs a restart: %s", ", ".join(report.restart))
        return report

    async def _settings(self, report: Reloaded) -> Settings:
        running = self._server.settings
        try:
            return running if self.read is None else await asyncio.to_thread(self.read)
        except ConfigError as error:
            report.failed += error.problems
            return running

    async def _plugins_are_right(self, wanted: Settings, report: Reloaded) -> bool:
        """Whether the broker would start with them: in the words of `tideline check` where it would not."""
        if problems := await asyncio.to_thread(plugin_problems, wanted):
            report.failed += [problem for problem in problems if problem not in report.failed]
            return False
        classes = [plugin_class(path) for path in wanted.plugin_classes()]
        found = list(unguarded(self._server.api.stored_settings.kinds, classes, wanted.left_out))
        report.failed += found
        return not found

    async def _plugins(self, settings: Settings, report: Reloaded) -> None:
        server = self._server
        before = server.plugin_host.credentials()
        try:
            gone = await server.plugin_host.renew(settings.plugin_classes())
        except StartError as error:
            report.failed.append(str(error))
            return
        after = server.plugin_host.credentials()
        changed = _changed_plugins(server.settings.plugins, settings.plugins)
        server.settings = server.settings.model_copy(update={"plugins": settings.plugins})
        server.access.use(server.plugin_host.plugins)
        await server.plugin_host.retire(gone)
        report.done += [f"{_key(path)}: {len(users)} user{'s' * (len(users) != 1)}" for path, users in after.items()]
        report.done += [f"plugins.{key}" for key in changed if ALIASES.get(key, key) not in after]
        revoked = _revoked(before, after)
        ended = len(end_connections(server.connections, lambda one: one.info.identity.username in revoked, _WHY))
        if ended:
            report.done.append(f"{ended} connection{'s' * (ended != 1)} of removed or changed users ended")

    async def _certificates(self, settings: Settings, report: Reloaded) -> None:
        server = self._server
        for listener in settings.listeners:
            if listener.tls is None:
                continue
            try:
                await server.renew_certificate(listener)
            except StartError as error:
                report.failed.append(str(error))
                continue
            report.done.append(f"listener {listener.name}: certificate")
            listeners = [listener if one.name == listener.name else one for one in server.settings.listeners]
            server.settings = server.settings.model_copy(update={"listeners": listeners})
        for path, plugin in server.plugin_host.by_path.items():
            for method, what in _RENEWED.items():
                renew = getattr(plugin, method, None)
                try:
                    if renew is not None and await renew():
                        report.done.append(f"{_key(path)}: {what}")
                except StartError as error:
                    report.failed.append(str(error))

    def _origins(self, settings: Settings, report: Reloaded) -> None:
        server = self._server
        if settings.origins != server.settings.origins:
            server.origins.listed = frozenset(settings.origins)
            server.settings = server.settings.model_copy(update={"origins": settings.origins})
            report.done.append(f"origins: {len(settings.origins)}")

    def _log(self, settings: Settings, report: Reloaded) -> None:
        if self.configure_log is None or settings.log == self._server.settings.log:
            return
        self.configure_log(settings.log)
        self._server.settings = self._server.settings.model_copy(update={"log": settings.log})
        report.done.append(f"log: {settings.log.level}, {settings.log.format}")


def _revoked(before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]) -> set[str]:
    return {
        name for path, users in before.items() for name, known_by in users.items() if after.get(path, {}).get(name) != known_by
    }


def _changed_plugins(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[str]:
    changed = [key for key, options in after.items() if before.get(key) != options]
    return [*changed, *(f"{key} (removed)" for key in before if key not in after)]


def _key(path: str) -> str:
    """What config.yaml calls a plugin."""
    return "plugins." + next((alias for alias, known in ALIASES.items() if known == path), path)
