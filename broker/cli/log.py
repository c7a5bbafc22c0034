"""``tideline log``: the running broker's log levels, and changing them until it restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from broker.cli.ask import Gone, running_broker
from broker.cli.settings import CANNOT_START, Failure, read_settings, settings_options

LEVELS = ("debug", "info", "warning", "error", "inherit")


@click.group(name="log", short_help="Change the running broker's log levels.")
@settings_options
def log(**_: object) -> None:
    """The running broker's log levels. What is changed here lasts until the broker restarts; config.yaml has what lasts."""


@log.command()
@click.argument("level", type=click.Choice(LEVELS), required=False)
@click.option("--logger", default="", help="Of this logger and those below it, such as broker.net; else of the whole log.")
@settings_options
def level(level: str | None, logger: str, config: Path | None, data: Path | None) -> None:
    """Tell the levels, or set LEVEL. inherit takes a logger's own level from it."""
    broker = running_broker(read_settings(config, data))
    if broker is None:
        raise Failure(["no running broker was found"], CANNOT_START)
    try:
        levels: dict[str, Any] = broker.put("/log", {"level": level, "logger": logger}) if level else broker.get("/log")
    except Gone as error:
        raise Failure([error.told], CANNOT_START) from None
    click.echo(f"log: {levels['level']}")
    for name, its in levels["loggers"].items():
        click.echo(f"{name}: {its}")
