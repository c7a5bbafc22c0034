"""How a plugin is called: with a time limit, on a thread, or on the spot, by what it is or says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from broker.plugin_call import answer_of

Asker = Callable[..., Awaitable[Any]]

# amqtt's plugins that block the loop in a coroutine that never awaits (Argon2, LDAP): they run on a thread.
BLOCKING = {
    ("amqtt.plugins.authentication", "FileAuthPlugin"),
    ("amqtt.contrib.ldap", "UserAuthLdapPlugin"),
    ("amqtt.contrib.ldap", "TopicAuthLdapPlugin"),
}


def origin(plugin: object, method: str) -> tuple[str, str]:
    """(module, class) of the class that wrote the method which a plugin answers with."""
    function = getattr(type(plugin), method, None)
    return getattr(function, "__module__", ""), getattr(function, "__qualname__", "").partition(".")[0]


def declared(plugin: object, method: str, attribute: str, known: set[tuple[str, str]]) -> bool:
    """Whether a plugin says something of itself by a class attribute, or is one of amqtt's of which it is ``known``."""
    return bool(getattr(plugin, attribute, origin(plugin, method) in known))


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits, without a loop; `RuntimeError` where it does wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("the plugin awaits something: it can't be declared immediate or blocking")


def limited(function: Callable[..., Awaitable[Any]], seconds: float) -> Asker:
    """Ask with a time limit; raises TimeoutError."""

    async def ask(**arguments: Any) -> Any:
        async with asyncio.timeout(seconds):
            return await answer_of(function(**arguments))

    return ask


def blame(error: BaseException) -> str:
    """An exception by its type and place. Not its text: plugins put credentials there."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return type(error).__name__
    return f"{type(error).__name__} at {place.tb_frame.f_code.co_filename.rpartition('/')[2]}:{place.tb_lineno}"
