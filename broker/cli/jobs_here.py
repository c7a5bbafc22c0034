"""Jobs where no broker runs: what storage remembers of them, and running one in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from broker.cli.here import bare, kept_at, server_here
from broker.cli.logs import configure
from broker.cli.serve import loop_factory, one_line, stop_on_signals
from broker.cli.settings import CANNOT_START, WRONG_CONFIGURATION, Failure, require_database
from broker.config import Log, Settings
from broker.hooks import JobPlugin, NoSuchJob
from storage.errors import StorageError
from storage.factory import open_url

Answer = dict[str, Any]

_NEEDED = ("persistence", "sync", "search", "attachments", "jobs")
"""The plugins without which a job cannot be run. The others are left out: nobody connects."""
_LOOK = 0.2


async def remembered(settings: Settings) -> list[Answer]:
    """The jobs as the last broker left them."""
    storage = open_url(kept_at(settings), read_only=True)
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
        if ":" not in state.name  # where a webhook or a bridge is
    ]


def run_here(settings: Settings, name: str, shown: Callable[[Answer], None]) -> Answer:
    """Run a job to its end, or until SIGINT or SIGTERM; its outcome. Raises `Failure`."""
    made = bare(settings, _NEEDED)
    configure(Log(level="warning"))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_run(made, name, shown))


async def _run(settings: Settings, name: str, shown: Callable[[Answer], None]) -> Answer:
    await require_database(kept_at(settings))
    stopping = stop_on_signals()
    async with server_here(settings) as server:
        plugin = server.plugin_host.job_plugin
        if plugin is None:
            raise Failure(["the jobs plugin is not configured"], WRONG_CONFIGURATION)
        return await _to_its_end(plugin, name, shown, stopping)


async def _to_its_end(plugin: JobPlugin, name: str, shown: Callable[[Answer], None], stopping: asyncio.Event) -> Answer:
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
