"""``tideline serve``: the broker, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import click

from broker.build import compiled
from broker.cli.check import listener_url, storage_url
from broker.cli.interrupts import uncollected
from broker.cli.logs import configure
from broker.cli.settings import (
    CANNOT_START,
    ENDED,
    WRONG_CONFIGURATION,
    Failure,
    config_path,
    examine,
    settings_of,
    settings_options,
)
from broker.cli.supervisor import SERVES, Supervisor
from broker.cli.workers import WorkersType, run_workers, stop_when_orphaned, workers_problems
from broker.config import Settings
from broker.errors import StartError
from broker.net import raise_descriptor_limit
from broker.reload import Reload
from broker.server import Server
from storage.ending import end
from storage.errors import StorageError

log = logging.getLogger(__name__)

GARBAGE_AFTER = 20_000
"""New objects after which Python looks for cycles. Messages in flight are none, and with Python's own 700 looking through them
again and again took a tenth of the event loop's time."""


@click.command(short_help="Run the broker.")
@settings_options
@click.option("--standby", is_flag=True, help="Where another broker serves the data, wait until it has ended.")
@click.option(
    "--workers",
    type=WorkersType(),
    default=1,
    show_default=True,
    help="How many nodes to run here; auto: one a core.",
)
def serve(config: Path | None, data: Path | None, standby: bool, workers: int) -> None:
    """Run the broker until SIGTERM or SIGINT; a second signal ends it at once, which loses nothing either. SIGHUP reloads
    users, access rules, certificates and the log, as `tideline reload` does.

    Exit codes: 0 stopped, 2 wrong configuration, 3 could not start, 4 had to end by itself.
    """
    also = partial(workers_problems, count=workers) if workers > 1 else None
    with uncollected():  # the plugins are imported here
        settings, problems, warnings = examine(config, data, opening=True, also=also)
    if settings is None:
        raise Failure(problems, WRONG_CONFIGURATION)
    configure(settings.log)
    log.info("configuration: %s", config_path(config) or "the defaults")
    log.info("core: %s", "compiled" if compiled() else "pure Python (make compile makes it faster)")
    for warning in warnings:
        log.warning("%s", warning)
    if settings.keeps_nothing:
        log.warning(
            "storage is %s, as the configuration says: every message, session and retained message is lost when this ends",
            settings.storage_url,
        )
    raise_descriptor_limit()
    supervisor = Supervisor()
    if workers > 1:
        run_workers(settings, workers, config_path(config), supervisor)
        return
    gc.set_threshold(GARBAGE_AFTER)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run(settings, lambda: settings_of(config, data), standby=standby, supervisor=supervisor))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop: uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def run(
    settings: Settings,
    read: Callable[[], Settings] | None = None,
    *,
    standby: bool = False,
    supervisor: Supervisor | None = None,
) -> None:
    """Start, say where, serve, stop. Raises `Failure` where that goes wrong.

    ``read`` reads the settings again. ``standby``: see `Server.start`. ``supervisor`` is told of all this.
    """
    supervisor = supervisor or Supervisor()
    stopping = stop_on_signals()
    stop_when_orphaned(stopping)
    server = Server(settings)
    server.reload.read = read
    server.reload.configure_log = configure
    wanted = reload_on_signal()
    supervisor.watch()
    if standby:
        supervisor.ready("standing by, until no other broker serves the data")
    try:
        if not await unless(stopping, server.start(standby=standby)):
            log.info("told to stop before it had started")
            return
    except (StartError, StorageError) as error:
        raise Failure([one_line(error)], CANNOT_START) from error
    announce(server)
    supervisor.ready(SERVES)
    reloads = asyncio.create_task(_reload_when(wanted, server.reload, supervisor), name="reload")
    try:
        await unless(stopping, server.serve_forever())
    finally:
        reloads.cancel()
        log.info("stopping")
        supervisor.stopping()
        await server.stop()
        await end(asyncio.all_tasks() - {asyncio.current_task()})  # asyncio would cancel them once
    if server.failure:
        raise Failure([server.failure], ENDED)
    log.info("stopped")


def one_line(error: Exception) -> str:
    """An error's text for a line."""
    return " ".join(str(error).split()) or type(error).__name__


def announce(server: Server) -> None:
    """A line on standard output for each listener, in the order of the configuration, once clients can connect."""
    for listener in server.settings.listeners:
        host, port = server.addresses[listener.name]
        click.echo(f"listening {listener.name} {listener_url(listener, host, port)}")
    click.echo(f"storing {storage_url(server.settings)}")


def stop_on_signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT, which leaves the next one to end the process."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def first() -> None:
        stopping.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, first)
    return stopping


def reload_on_signal() -> asyncio.Event:
    """Set by each SIGHUP, which ends the process no more."""
    wanted = asyncio.Event()
    if hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, wanted.set)
    return wanted


async def _reload_when(wanted: asyncio.Event, reload: Reload, supervisor: Supervisor) -> None:
    while True:
        await wanted.wait()
        wanted.clear()
        supervisor.reloading()
        await reload()
        supervisor.ready(SERVES)


async def unless(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Await ``work`` unless ``stopping`` comes first, which cancels it; whether the work was done. Raises what it raises."""
    task = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
    if task.done():
        task.result()
        return True
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return False
