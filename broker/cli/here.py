"""A command's own server, where no broker runs: the same data under the same lock, without listeners."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from broker.cli.serve import one_line
from broker.cli.settings import CANNOT_START, WRONG_CONFIGURATION, Failure
from broker.config import Settings, plugin_problems
from broker.errors import StartError
from broker.server import Server
from storage.errors import StorageError, StorageInUse

_NOBODY = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": False}}


def bare(settings: Settings, needed: Collection[str]) -> Settings:
    """The settings with no other plugins than these: nobody connects. Raises `Failure` where one of them cannot be."""
    plugins = {key: options for key, options in settings.plugins.items() if key in needed}
    found = settings.only({**plugins, **_NOBODY})
    if problems := plugin_problems(found):
        raise Failure(problems, WRONG_CONFIGURATION)
    return found


def kept_at(settings: Settings) -> str:
    """Where the data is. Raises `Failure` where nothing survives a broker."""
    if settings.keeps_nothing:
        raise Failure(["no broker runs, and memory:// keeps nothing without one"], CANNOT_START)
    if not settings.storage_url:
        raise Failure(["no broker runs, and only its plugin knows where the messages are"], CANNOT_START)
    return settings.storage_url


@asynccontextmanager
async def server_here(settings: Settings) -> AsyncIterator[Server]:
    """A server that has started, and is stopped at the end. Raises `Failure`."""
    server = Server(settings)
    try:
        await server.start(listen=False)
    except StorageInUse as error:
        text = "it cannot be asked: is its http plugin on, and operator_file the same here?"
        raise Failure([one_line(error), text], CANNOT_START) from None
    except (StartError, StorageError) as error:
        raise Failure([one_line(error)], CANNOT_START) from None
    try:
        yield server
    finally:
        await server.stop()
