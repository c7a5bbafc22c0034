"""``tideline reload``: users, access rules, certificates and the log of the running broker, anew from their files."""

from __future__ import annotations

from pathlib import Path

import click

from broker.cli.ask import Gone, running_broker
from broker.cli.settings import CANNOT_START, Failure, read_settings, settings_options


@click.command(short_help="Have the running broker read users, rules and certificates again.")
@settings_options
def reload(config: Path | None, data: Path | None) -> None:
    """Have the running broker read its users, access rules, certificates and log settings again, and say what came of it.

    SIGHUP does the same, and says it in the log. What is wrong leaves the broker as it was, and is exit code 1.
    """
    broker = running_broker(read_settings(config, data))
    if broker is None:
        raise Failure(["no running broker was found; without its HTTP API, send SIGHUP to its process"], CANNOT_START)
    try:
        report = broker.post("/reload")
    except Gone as error:
        raise Failure([error.told], CANNOT_START) from None
    for line in report["reloaded"]:
        click.echo(f"reloaded: {line}")
    for line in report["needs_restart"]:
        click.echo(f"changed, but needs a restart: {line}", err=True)
    if report["failed"]:
        raise Failure([f"not reloaded, it stays as it was: {line}" for line in report["failed"]], 1)
