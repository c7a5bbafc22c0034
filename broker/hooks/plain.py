"""Which methods of plugins are called on the spot: a coroutine there would never be awaited."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin

from broker.hooks.plugins import ONLY_ONE, EnhancedAuthPlugin, GroupPlugin, SessionPlugin

_MAY_WAIT = ("before_ack", "after_ack")
_PLAIN = {
    kind: [
        name
        for name, method in vars(kind).items()
        if inspect.isfunction(method) and not inspect.iscoroutinefunction(method) and name not in _MAY_WAIT
    ]
    for kind in (*ONLY_ONE, GroupPlugin, EnhancedAuthPlugin, SessionPlugin)
}
"""The methods that are called on the spot, and whose answer is never awaited."""
_PLAIN_OF_ANY = ("bars", "decide", "governs", "known", "known_by", "knows")
"""The same of authentication and topic plugins, which have them or not (docs/plugins.md)."""


def never_awaited(plugin: type[Any]) -> Iterator[str]:
    """The methods of a plugin's class that are ``async``, and that nobody would await."""
    names = [name for kind, plain in _PLAIN.items() if issubclass(plugin, kind) for name in plain]
    names += _PLAIN_OF_ANY if issubclass(plugin, BaseAuthPlugin | BaseTopicPlugin) else ()
    for name in names:
        method = getattr(plugin, name, None)
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            yield name
