"""``tideline reindex``: build the search index again, through the broker that runs, or alone where none does."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from amqtt.utils import import_string

from broker.cli.ask import Gone, RunningBroker, running_broker
from broker.cli.settings import (
    CANNOT_START,
    WRONG_CONFIGURATION,
    Failure,
    read_settings,
    require_database,
    settings_options,
)
from broker.config import ALIASES, Settings, checked, settings_problems
from storage.errors import StorageError, StorageInUse
from storage.factory import open_url

_PLUGIN = ALIASES["search"]
_LOOK = 0.3


@click.command(short_help="Build the search index again.")
@settings_options
def reindex(config: Path | None, data: Path | None) -> None:
    """Build the search index again from the store, and switch to it once it is complete.

    A broker that runs does the work itself, and goes on publishing and searching meanwhile; ^C calls it off. Otherwise this
    command does it, and no broker can be started before it ends. Interrupted or killed, the index is as it was.
    """
    settings = read_settings(config, data)
    options = _options(settings)
    running = running_broker(settings)
    messages = _asked(running) if running is not None else asyncio.run(_alone(settings, options))
    click.echo(f"the search index was made again from {messages:,} messages")


def _options(settings: Settings) -> dict[str, Any]:
    if "search" not in settings.plugins:
        raise Failure(["the configuration has no search plugin"], WRONG_CONFIGURATION)
    if problems := settings_problems(settings, "search"):
        raise Failure(problems, WRONG_CONFIGURATION)
    return checked(_PLUGIN, settings.plugins["search"])


class Bar:
    """Progress on standard error: one line that fills on a terminal, a line every tenth of the way elsewhere."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last_tenth = -1
        self._waiting = ""

    def show(self, messages: int, fraction: float, waiting: str | None = None) -> None:
        """So many messages were read, and so much of the way is done, 0 to 1; ``waiting``: why nothing goes on."""
        self._wait(waiting or "")
        if self._terminal:
            width = round(fraction * 40)
            click.echo(f"\r[{'#' * width}{'.' * (40 - width)}] {fraction:4.0%}  {messages:,} messages ", nl=False, err=True)
        elif int(fraction * 10) != self._last_tenth:
            self._last_tenth = int(fraction * 10)
            click.echo(f"{fraction:4.0%}  {messages:,} messages", err=True)

    def _wait(self, why: str) -> None:
        """A line of its own when a wait begins, or has another reason, or is over."""
        if why != self._waiting:
            self._waiting = why
            self.end()
            click.echo(f"waiting: {why}" if why else "going on", err=True)

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            click.echo("", err=True)


# --- through the broker --------------------------------------------------------------------------------------------


def _asked(running: RunningBroker) -> int:
    bar = Bar()
    try:
        rebuild = running.post("/search/reindex")
        while rebuild["state"] == "running":
            bar.show(rebuild["messages"], rebuild["fraction"], rebuild["waiting"])
            time.sleep(_LOOK)
            rebuild = running.get("/search/index")["rebuild"] or {"state": "lost"}
    except KeyboardInterrupt:
        running.delete("/search/reindex")
        raise Failure(["called off; the index is as it was"], 1) from None
    except Gone:
        raise Failure(["the broker has stopped meanwhile; the index is as it was"], 1) from None
    finally:
        bar.end()
    if rebuild["state"] != "done":
        reason = {"failed": f"it failed: {rebuild.get('error')}", "cancelled": "somebody called it off"}
        raise Failure([reason.get(rebuild["state"], "the broker was started again meanwhile; the index is as it was")], 1)
    return int(rebuild["messages"])


# --- alone ---------------------------------------------------------------------------------------------------------


async def _alone(settings: Settings, options: Mapping[str, Any]) -> int:
    """Under the lock of `tideline serve`."""
    url = settings.storage_url
    if settings.keeps_nothing:
        raise Failure(["the configuration stores in memory only, so without a broker there is nothing to index"], CANNOT_START)
    if not url:
        raise Failure(["no broker runs, and only its plugin knows where the messages are"], CANNOT_START)
    await require_database(url)
    plugin = import_string(_PLUGIN)
    storage, bar = open_url(url), Bar()
    try:
        await storage.open()
        messages = await plugin.reindex_alone(storage, options, bar.show)
        return int(messages)
    except StorageInUse as error:
        text = f"{error}, and cannot be asked: plugins.http and its operator_file must be configured"
        raise Failure([text], CANNOT_START) from None
    except StorageError as error:
        raise Failure([" ".join(str(error).split())], CANNOT_START) from None
    except plugin.errors as error:
        raise Failure([str(error)], CANNOT_START) from None
    finally:
        bar.end()
        await storage.close()
