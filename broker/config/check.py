"""What `tideline check` says beyond types: plugins that cannot be loaded (errors), and settings that endanger (warnings)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from amqtt.plugins.authentication import AnonymousAuthPlugin
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.utils import import_string

from broker.config.certificates import server_context
from broker.config.plugin_settings import WrongSettings, checked
from broker.config.plugins import ALIASES, LEFT_OUT
from broker.config.settings import Settings, Tls, is_loopback, split_bind
from broker.errors import StartError
from broker.hooks import EnhancedAuthPlugin, StoragePlugin, SyncPlugin

_TLS_FILES = ("certfile", "keyfile", "cafile")
_PLUGIN_FILES = set(_TLS_FILES)
_EVERYWHERE = {"0.0.0.0", "::"}
_IN_THE_CLEAR = "without TLS: passwords and messages travel in the clear"


def plugin_problems(settings: Settings) -> list[str]:
    """Every plugin that cannot be imported, and everything in its settings that its ``Config`` refuses, a line each."""
    problems = [problem for key in settings.plugins for problem in settings_problems(settings, key)]
    return problems or [f"{name}: {problem}" for name, problem in _left_out(settings)]


def settings_problems(settings: Settings, key: str) -> list[str]:
    """What is wrong with one plugin: where it was written, the value, what would be right."""
    try:
        checked(ALIASES.get(key, key), settings.plugins[key])
    except WrongSettings as error:
        return [f"{settings.where(('plugins', key, *path))}: {text}" for path, text in error.wrong]
    return []


def _left_out(settings: Settings) -> Iterator[tuple[str, str]]:
    """Storage or inboxes that were left to another plugin, where none takes them. Needs plugins that can be imported."""
    classes = [import_string(path) for path in settings.plugin_classes()]
    for name, kind in (("persistence", StoragePlugin), ("sync", SyncPlugin)):
        if not any(issubclass(cls, kind) for cls in classes):
            yield name, LEFT_OUT[name]


def certificate_problems(settings: Settings) -> list[str]:
    """Every certificate that can be read and would not serve: no PEM, or not the one of its key. A line each."""
    problems = []
    for where, tls in _tls(settings):
        if all(_readable(path) for path in (tls.certfile, tls.keyfile, tls.cafile) if path is not None):
            try:
                server_context(where, tls, "mqtt")
            except StartError as error:
                problems.append(str(error))
    return problems


def _tls(settings: Settings) -> Iterator[tuple[str, Tls]]:
    for listener in settings.listeners:
        if listener.tls is not None:
            yield f"listener {listener.name}: tls.", listener.tls
    for key, options in settings.plugins.items():
        certfile, keyfile = options.get("certfile"), options.get("keyfile")
        if isinstance(certfile, str) and certfile:
            yield f"plugins.{key}: ", Tls(certfile=Path(certfile), keyfile=Path(str(keyfile)) if keyfile else None)


def warnings(settings: Settings) -> list[str]:
    """What a person should look at. Needs plugins that `plugin_problems` found nothing wrong with."""
    return [
        *_exposure(settings),
        *_identity(settings),
        *_anonymous_beside_users(settings),
        *_unreadable(settings),
        *_clashes(settings),
    ]


def _exposure(settings: Settings) -> Iterator[str]:
    """Listeners that others can reach, without a password or without encryption."""
    anonymous = any(
        issubclass(cls, AnonymousAuthPlugin) and options.get("allow_anonymous", True) for cls, options in _auth(settings)
    )
    for listener in settings.listeners:
        if is_loopback(listener.host):
            continue
        where = f"listener {listener.name}: {listener.bind} can be reached from other machines"
        if anonymous:
            yield f"{where}, and anonymous clients may do everything there that no topic plugin forbids"
        if listener.tls is None:
            yield f"{where} {_IN_THE_CLEAR}"
    for key, bind, options in _plugin_binds(settings):
        if not is_loopback(split_bind(bind)[0]) and not options.get("certfile"):
            yield f"plugins.{key}: {bind} can be reached from other machines {_IN_THE_CLEAR}"


def _plugin_binds(settings: Settings) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(plugin, ``host:port``, its settings) of the plugins that listen themselves."""
    for key, options in settings.plugins.items():
        if isinstance(options.get("bind"), str):
            yield key, options["bind"], options


def _identity(settings: Settings) -> Iterator[str]:
    plugins = list(_auth(settings))
    enhanced = any(issubclass(import_string(path), EnhancedAuthPlugin) for path in settings.plugin_classes())
    if not plugins and not enhanced:
        yield "plugins: no authentication plugin, so nobody is let in; add passwords, or amqtt's AnonymousAuthPlugin"
    elif not enhanced and all(
        issubclass(cls, AnonymousAuthPlugin) and options.get("allow_anonymous", True) is False for cls, options in plugins
    ):
        yield "plugins: no plugin checks a password; clients must send a user name, and it counts for nothing"


def _anonymous_beside_users(settings: Settings) -> Iterator[str]:
    """AnonymousAuthPlugin beside a plugin that checks passwords: seldom meant, and easily left in."""
    plugins = list(_auth(settings))
    open_to_all = (issubclass(cls, AnonymousAuthPlugin) and options.get("allow_anonymous", True) for cls, options in plugins)
    if not any(open_to_all):
        return
    for cls, options in plugins:
        if issubclass(cls, AnonymousAuthPlugin) or getattr(cls, "verifies", "") is None:
            continue
        name = cls.__name__
        if not getattr(cls, "needs_identity", False):
            yield (
                f"plugins: beside {name}, AnonymousAuthPlugin lets in whoever sends no user name: "
                "leave it out unless that is meant"
            )
        elif not options.get("anonymous", False):
            yield f"plugins: beside {name}, AnonymousAuthPlugin lets nobody in: leave it out, or set {name}'s anonymous to true"


def _auth(settings: Settings) -> Iterator[tuple[type, dict[str, object]]]:
    for path, options in settings.plugin_classes().items():
        cls = import_string(path)
        if issubclass(cls, BaseAuthPlugin):
            yield cls, checked(path, options)


def _unreadable(settings: Settings) -> Iterator[str]:
    """Files that must be there and cannot be read: a listener without its certificate, or nobody's password."""
    for where, path in (*_listener_files(settings), *_plugin_files(settings)):
        if not _readable(path):
            yield f"{where} {path} cannot be read"


def _readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def _listener_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    for listener in settings.listeners:
        for field in _TLS_FILES if listener.tls is not None else ():
            path: Path | None = getattr(listener.tls, field)
            if path is not None:
                yield f"listener {listener.name}: tls.{field}", path


def _plugin_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    for key, options in settings.plugins.items():
        for name, value in options.items():
            if name.replace("-", "_") in _PLUGIN_FILES and isinstance(value, str) and value:
                yield f"plugins.{key}: {name}", Path(value)


def _clashes(settings: Settings) -> Iterator[str]:
    binds = [(f"listener {listener.name}", listener.bind) for listener in settings.listeners]
    binds += [(f"plugins.{key}", bind) for key, bind, _ in _plugin_binds(settings)]
    for (one, bind), (other, other_bind) in combinations(binds, 2):
        (host, port), (other_host, other_port) = split_bind(bind), split_bind(other_bind)
        if port == other_port != 0 and (host == other_host or _EVERYWHERE & {host, other_host}):
            yield f"{one} and {other} both want port {port} ({bind}, {other_bind})"
