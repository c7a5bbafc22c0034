"""``tideline check``: is the configuration right, and is it wise."""

from __future__ import annotations

from pathlib import Path

import click

from broker.cli.settings import WRONG_CONFIGURATION, Failure, config_option, config_path, examine
from broker.config import Listener, Settings, without_password


@click.command(short_help="Validate the configuration.")
@config_option
@click.option("--strict", is_flag=True, help="Exit with 1 where there are warnings.")
def check(config: Path | None, strict: bool) -> None:
    """Validate the configuration: what is wrong, where, and what would be right."""
    settings, problems, found = examine(config)
    for warning in found:
        click.echo(f"warning: {warning}", err=True)
    if settings is None:
        raise Failure(problems, WRONG_CONFIGURATION)
    click.echo(
        f"{config_path(config) or 'the defaults'}: ok" + (f", {len(found)} warning{'s' * (len(found) > 1)}" if found else "")
    )
    for listener in settings.listeners:
        click.echo(f"  {listener.name:<12} {listener_url(listener, listener.host, listener.port)}")
    click.echo(f"  {'storage':<12} {storage_url(settings)}{' (nothing survives a restart)' * settings.keeps_nothing}")
    click.echo(f"  {'plugins':<12} {', '.join(settings.plugins) or 'none'}")
    if strict and found:
        raise click.exceptions.Exit(1)


def listener_url(listener: Listener, host: str, port: int) -> str:
    """What a client would be pointed to."""
    scheme = {("tcp", False): "mqtt", ("tcp", True): "mqtts", ("ws", False): "ws", ("ws", True): "wss"}
    if listener.socket_path is not None:
        return f"{scheme[listener.type, listener.tls is not None]}+{listener.bind}"
    path = listener.path if listener.type == "ws" else ""
    return f"{scheme[listener.type, listener.tls is not None]}://{f'[{host}]' if ':' in host else host}:{port}{path}"


def storage_url(settings: Settings) -> str:
    """Where the messages go, without a password."""
    return without_password(settings.storage_url) or "as a plugin says"
