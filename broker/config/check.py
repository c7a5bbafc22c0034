"""What `tideline check` and `serve` say beyond types: plugins that cannot be loaded (errors), and what endangers (warnings).

Kept true: one run says all that can be found. What is wrong hides nothing that is wrong with something else.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any

from amqtt.plugins.authentication import AnonymousAuthPlugin
from amqtt.plugins.base import BaseAuthPlugin

from broker.access import AccessRule
from broker.config.certificates import certificate_faults
from broker.config.plugin_settings import WrongSettings, checked, plugin_class
from broker.config.plugins import ALIASES, LEFT_OUT
from broker.config.settings import Settings, Tls, is_loopback, split_bind
from broker.hooks import ONLY_ONE, EnhancedAuthPlugin, StoragePlugin, SyncPlugin

_TLS_FILES = ("certfile", "keyfile", "cafile", "crlfile")
_PLUGIN_FILES = set(_TLS_FILES)
_EVERYWHERE = {"0.0.0.0", "::"}
_IN_THE_CLEAR = "without TLS: passwords and messages travel in the clear"


def plugin_problems(settings: Settings, *, all_there: bool = True) -> list[str]:
    """Every plugin that cannot be imported, everything in its settings that its ``Config`` refuses, and which plugins do not go
    together, a line each. Unless they are ``all_there``, nothing is said of plugins that are missing."""
    problems = [problem for key in settings.plugins for problem in settings_problems(settings, key)]
    left_out = _left_out(settings) if all_there else ()
    return problems + [f"{name}: {problem}" for name, problem in (*left_out, *_too_many(settings))]


def settings_problems(settings: Settings, key: str) -> list[str]:
    """What is wrong with one plugin: where it was written, the value, what would be right."""
    try:
        checked(ALIASES.get(key, key), settings.plugins[key])
    except WrongSettings as error:
        return [f"{settings.where(('plugins', key, *path))}: {text}" for path, text in error.wrong]
    return []


def _left_out(settings: Settings) -> Iterator[tuple[str, str]]:
    """Storage or inboxes that were left to another plugin, where none takes them. A plugin that cannot be imported might."""
    try:
        classes = [plugin_class(path) for path in settings.plugin_classes()]
    except WrongSettings:
        return
    for name, kind in (("persistence", StoragePlugin), ("sync", SyncPlugin)):
        if not any(issubclass(cls, kind) for cls in classes):
            yield name, LEFT_OUT[name]


def _too_many(settings: Settings) -> Iterator[tuple[str, str]]:
    """Plugins of a kind of which there may be one."""
    classes: dict[str, type[Any]] = {}
    for key in settings.plugins:
        with suppress(WrongSettings):  # which is told already
            classes[key] = plugin_class(ALIASES.get(key, key))
    for kind, does in ONLY_ONE.items():
        names = [key for key, cls in classes.items() if issubclass(cls, kind)]
        if len(names) > 1:
            yield "plugins", f"{', '.join(names)}: only one plugin {does}"


def all_problems(settings: Settings, *, whole: bool = True, opening: bool = False) -> tuple[list[str], list[str]]:
    """(problems, warnings) of settings that can be read: plugins, certificates and what endangers.

    ``whole``: False where they are what is left of some that are wrong (`broker.config.remainder`): of what is missing there
    nothing is said. ``opening``: see `certificate_problems`.
    """
    problems = plugin_problems(settings, all_there=whole)
    all_there = whole and not problems
    return problems + certificate_problems(settings, opening=opening), warnings(settings, all_there=all_there)


def certificate_problems(settings: Settings, *, opening: bool = False) -> list[str]:
    """Every certificate that would not serve: no PEM, or not the one of its key. A line each.

    One that this user may not read is wrong for who is ``opening`` it; others, who may be another user, are warned.
    """
    problems: list[str] = []
    for where, tls in _tls(settings):
        problems += certificate_faults(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), where, tls, forbidden=opening)
    return problems


def _tls(settings: Settings) -> Iterator[tuple[str, Tls]]:
    for listener in settings.listeners:
        if listener.tls is not None:
            yield f"listener {listener.name}: tls.", listener.tls
    for key, options in settings.plugins.items():
        certfile, keyfile = options.get("certfile"), options.get("keyfile")
        if isinstance(certfile, str) and certfile:
            yield f"plugins.{key}: ", Tls(certfile=Path(certfile), keyfile=Path(str(keyfile)) if keyfile else None)


def warnings(settings: Settings, *, all_there: bool = True) -> list[str]:
    """What a person should look at. Unless they are ``all_there``, nothing is said of plugins that are missing."""
    return [
        *_exposure(settings),
        *(_identity(settings) if all_there else ()),
        *_anonymous_beside_users(settings),
        *_any_page(settings),
        *_unreadable(settings),
        *_clashes(settings),
        *_doubtful_rules(settings),
    ]


def _doubtful_rules(settings: Settings) -> Iterator[str]:
    rules = settings.plugins.get("acl", {}).get("rules", [])
    for number, written in enumerate(rules if isinstance(rules, list) else []):
        with suppress(ValueError):  # which `plugin_problems` tells
            for doubt in AccessRule.parse(written).doubts():
                yield f"{settings.where(('plugins', 'acl', 'rules', number))}: {doubt}"


def _exposure(settings: Settings) -> Iterator[str]:
    """Listeners that others can reach, without a password or without encryption."""
    anonymous = any(
        issubclass(cls, AnonymousAuthPlugin) and options.get("allow_anonymous", True) for cls, options in _auth(settings)
    )
    for listener in settings.listeners:
        if is_loopback(listener.host):
            continue
        where = f"listener {listener.name}: {listener.bind} can be reached from other machines"
        if anonymous and listener.anonymous:
            yield f"{where}, and anonymous clients may do everything there that no topic plugin forbids"
        elif anonymous and listener.anonymous is None:
            yield f"{where}: anonymous clients are refused there, unless it says anonymous: true"
        if listener.tls is None:
            yield f"{where} {_IN_THE_CLEAR}"
    for key, bind, options in _plugin_binds(settings):
        if not is_loopback(split_bind(bind)[0]) and not options.get("certfile"):
            yield f"plugins.{key}: {bind} can be reached from other machines {_IN_THE_CLEAR}"


def _any_page(settings: Settings) -> Iterator[str]:
    if "*" in settings.origins:
        yield 'origins: "*" lets every web page that somebody on your network opens connect; list the pages that may'


def _plugin_binds(settings: Settings) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(plugin, ``host:port``, its settings) of the plugins that listen themselves."""
    for key, options in settings.plugins.items():
        bind = options.get("bind")
        if isinstance(bind, str):
            try:
                split_bind(bind)
            except ValueError:  # which `plugin_problems` tells
                continue
            yield key, bind, options


def _identity(settings: Settings) -> Iterator[str]:
    plugins = list(_auth(settings))
    enhanced = any(issubclass(plugin_class(path), EnhancedAuthPlugin) for path in settings.plugin_classes())
    if any(listener.identity for listener in settings.listeners):
        return  # certificates let clients in
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
        if issubclass(cls, AnonymousAuthPlugin) or getattr(cls, "verifies", "") is None or _until_users(cls):
            continue
        name = cls.__name__
        if not getattr(cls, "needs_identity", False):
            yield (
                f"plugins: beside {name}, AnonymousAuthPlugin lets in whoever sends no user name: "
                "leave it out unless that is meant"
            )
        elif not options.get("anonymous", False):
            yield f"plugins: beside {name}, AnonymousAuthPlugin lets nobody in: leave it out, or set {name}'s anonymous to true"


def _until_users(cls: type) -> bool:
    """Whether anonymous clients beside a plugin are meant: it refuses them once it has users."""
    return bool(getattr(cls, "anonymous_until_users", False))


def _auth(settings: Settings) -> Iterator[tuple[type, dict[str, object]]]:
    for path, options in settings.plugin_classes().items():
        with suppress(WrongSettings):  # which `plugin_problems` tells
            cls = plugin_class(path)
            if issubclass(cls, BaseAuthPlugin):
                yield cls, checked(path, options)


def _unreadable(settings: Settings) -> Iterator[str]:
    """Files that this user may not read, as the broker's may; of plugins also what `certificate_problems` leaves out."""
    opened = {path for _, tls in _tls(settings) for path in (tls.certfile, tls.keyfile, tls.cafile, tls.crlfile)}
    for where, path in (*_listener_files(settings), *_plugin_files(settings)):
        if _forbidden(path) or (path not in opened and not os.path.isfile(path)):
            yield f"{where} {path} cannot be read"


def _forbidden(path: Path) -> bool:
    try:
        path.open("rb").close()
    except OSError as error:
        return isinstance(error, PermissionError)
    return False


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
    binds = [(f"listener {listener.name}", listener.bind) for listener in settings.listeners if not listener.socket_path]
    binds += [(f"plugins.{key}", bind) for key, bind, _ in _plugin_binds(settings)]
    for (one, bind), (other, other_bind) in combinations(binds, 2):
        (host, port), (other_host, other_port) = split_bind(bind), split_bind(other_bind)
        if port == other_port != 0 and (host == other_host or _EVERYWHERE & {host, other_host}):
            yield f"{one} and {other} both want port {port} ({bind}, {other_bind})"
