"""What of a changed configuration a running broker can take over, and what needs a restart. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.config.plugins import ALIASES
from broker.config.settings import Listener, Settings, Tls


@dataclass(slots=True)
class Reloaded:
    """What came of a reload, a line each."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """What was wrong; there everything is as it was."""
    restart: list[str] = field(default_factory=list)
    """Settings that were changed and hold from the next start on."""


def taken_over(running: Settings, wanted: Settings, renewable: Callable[[str], bool]) -> tuple[Settings, list[str]]:
    """The settings that hold from now on, and the names of those that need a restart.

    Taken over are: the log, the origins, the files of a listener's certificates, and plugins by class path that are
    ``renewable``.
    """
    restart = [
        f"{section}.{name}"
        for section in ("mqtt", "limits", "hooks")
        for name in type(getattr(wanted, section)).model_fields
        if getattr(getattr(wanted, section), name) != getattr(getattr(running, section), name)
    ]
    listeners, changed = _listeners(running.listeners, wanted.listeners)
    plugins, more = _plugins(running.plugins, wanted.plugins, renewable)
    kept = {"log": wanted.log, "origins": wanted.origins, "listeners": listeners, "plugins": plugins}
    return running.model_copy(update=kept), restart + changed + more


def _listeners(running: list[Listener], wanted: list[Listener]) -> tuple[list[Listener], list[str]]:
    by_name = {listener.name: listener for listener in wanted}
    kept, restart = [], [f"listener {name} (new)" for name in by_name if name not in {one.name for one in running}]
    for listener in running:
        other = by_name.get(listener.name)
        if other is not None and other.tls and listener.tls and _demand(other.tls) == _demand(listener.tls):
            listener = listener.model_copy(update={"tls": other.tls})
        kept.append(listener)
        if other is None:
            restart.append(f"listener {listener.name} (removed)")
        elif other != listener:
            names = [name for name in Listener.model_fields if getattr(other, name) != getattr(listener, name)]
            restart += [f"listener {listener.name}: {name}" for name in names]
    return kept, restart


def _demand(tls: Tls) -> tuple[object, ...]:
    """What clients must show and speak, which a handshake can't change any more."""
    return (
        tls.require_client_certificate,
        tls.cafile is not None,
        tls.crlfile is not None,
        tls.min_version,
        tls.ciphers,
    )


def _plugins(
    running: Mapping[str, dict[str, Any]], wanted: Mapping[str, dict[str, Any]], renewable: Callable[[str], bool]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """In the wanted order; those that stay although they are wanted no more come last."""
    keys = {ALIASES.get(key, key): key for key in running}
    kept: dict[str, dict[str, Any]] = {}
    restart = []
    for key, options in wanted.items():
        path = ALIASES.get(key, key)
        before = keys.pop(path, None)
        if renewable(path):
            kept[key] = options
        elif before is None:
            restart.append(f"plugins.{key} (new)")
        else:
            kept[key] = running[before]
            if running[before] != options:
                restart.append(f"plugins.{key}")
    for path, key in keys.items():
        if not renewable(path):
            kept[key] = running[key]
            restart.append(f"plugins.{key} (removed)")
    return kept, restart
