"""Jobs where no broker runs: what storage remembers of them, and running one in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from broker.cli.logs import configure
from broker.cli.serve import loop_factory, one_line, stop_on_signals
from broker.cli.settings import CANNOT_START, WRONG_CONFIGURATION, Failure, require_database
from broker.config import Log, Settings, plugin_problems
from broker.errors import StartError
from broker.hooks import JobPlugin, NoSuchJob
from broker.server import Server
from storage.errors import StorageError, StorageInUse
from storage.factory import open_url

Told = dict[str, Any]

_NEEDED = ("persistence", "sync", "search", "jobs")
"""The plugins without which a job cannot be run. The others are left out: nobody connects."""
_NOBODY = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": False}}
_LOOK = 0.2


async def remembered(settings: Settings) -> list[Told]:
    """The jobs as the last broker left them."""
    storage = open_url(_url(settings), read_only=True)
    try:
        await storage.open()
        states = await storage.jobs()
    except StorageError as error:
        raise Failure([one_line(error)], CANNOT_START) from None
    finally:
        await storage.close()
    return [
        {
            "name": state.name,
            "schedule": state.schedule,
            "next_run": state.next_run or None,
            "last": {
                "started": state.started,
                "ended": state.ended or None,
                "outcome": "interrupted" if state.outcome == "running" else state.outcome,
                "detail": json.loads(state.detail),
            }
            if state.outcome
            else None,
            "running": None,
        }
        for state in states
    ]


def run_here(settings: Settings, name: str, shown: Callable[[Told], None]) -> Told:
    """Run a job to its end, or until SIGINT or SIGTERM; its outcome. Raises `Failure`."""
    plugins = {key: options for key, options in settings.plugins.items() if key in _NEEDED}
    bare = settings.model_copy(update={"plugins": {**plugins, **_NOBODY}})
    if problems := plugin_problems(bare):
        raise Failure(problems, WRONG_CONFIGURATION)
    configure(Log(level="warning"))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_run(bare, name, shown))


async def _run(settings: Settings, name: str, shown: Callable[[Told], None]) -> Told:
    await require_database(_url(settings))
    stopping = stop_on_signals()
    server = Server(settings)
    try:
        await server.start(listen=False)
    except StorageInUse as error:
        text = "it cannot be asked: is its http plugin on, and operator_file the same here?"
        raise Failure([one_line(error), text], CANNOT_START) from None
    except (StartError, StorageError) as error:
        raise Failure([one_line(error)], CANNOT_START) from None
    try:
        plugin = server.plugin_host.job_plugin
        if plugin is None:
            raise Failure(["the jobs plugin is not configured"], WRONG_CONFIGURATION)
        return await _to_its_end(plugin, name, shown, stopping)
    finally:
        await server.stop()


async def _to_its_end(plugin: JobPlugin, name: str, shown: Callable[[Told], None], stopping: asyncio.Event) -> Told:
    try:
        plugin.run(name)
    except NoSuchJob as error:
        raise Failure([str(error)], 1) from None
    ended = asyncio.ensure_future(plugin.ended(name))
    stop = asyncio.ensure_future(stopping.wait())
    while not ended.done():
        await asyncio.wait({ended, stop} if not stop.done() else {ended}, timeout=_LOOK, return_when=asyncio.FIRST_COMPLETED)
        running = plugin.job(name)["running"]
        if running is not None:
            if stop.done():
                plugin.cancel(name)
            shown(running)
    stop.cancel()
    return dict((await ended)["last"])


def _url(settings: Settings) -> str:
    """Where the messages are. Raises `Failure` where nothing survives a broker."""
    if settings.keeps_nothing:
        raise Failure(["no broker runs, and memory:// keeps nothing without one"], CANNOT_START)
    if not settings.storage_url:
        raise Failure(["no broker runs, and only its plugin knows where the messages are"], CANNOT_START)
    return settings.storage_url
