"""``tideline rules``: what the rules of the configuration would do with a message."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from dacite import from_dict

from broker.cli.logs import printable
from broker.cli.settings import WRONG_CONFIGURATION, Failure, config_option, read_settings
from broker.config import ALIASES, checked, plugin_class, settings_problems
from broker.packets import ProtocolViolation, validate_name

_PLUGIN = "rules"


@click.group(short_help="Try the rules on a message.")
@config_option
def rules(**_: object) -> None:
    """Rules: what is done with messages that the configuration picks (docs/rules.md)."""


@rules.command()
@click.option("--topic", required=True, help="The topic that it is published to.")
@click.option("--payload", required=True, help="Its payload.")
@click.option("--user", default="", help="The user who publishes it; without one, nobody that was verified.")
@click.option("--client", default="test", show_default=True, help="The client id.")
@click.option("--qos", type=click.IntRange(0, 2), default=1, show_default=True, help="Its QoS.")
@click.option("--retain", is_flag=True, help="It is retained.")
@config_option
def test(topic: str, payload: str, user: str, client: str, qos: int, retain: bool, config: Path | None) -> None:
    """Say what each rule would do with a message, and why not. Nothing is published, and access control is not asked.

    Exits with 1 where a rule would fail.
    """
    settings = read_settings(config)
    if _PLUGIN not in settings.plugins:
        raise Failure(["rules is not among the plugins of the configuration (docs/rules.md)"], WRONG_CONFIGURATION)
    if problems := settings_problems(settings, _PLUGIN):
        raise Failure(problems, WRONG_CONFIGURATION)
    try:
        validate_name(topic)
    except ProtocolViolation as violation:
        raise Failure([violation.text], 2) from None
    plugin: Any = plugin_class(ALIASES[_PLUGIN])
    made = from_dict(plugin.Config, checked(ALIASES[_PLUGIN], settings.plugins[_PLUGIN]))
    sender = f"u/{user}" if user else f"c/{client}"
    about = {"topic": topic, "sender": sender, "client": client, "qos": qos, "retain": retain, "time": int(time.time() * 1000)}
    try:
        outcome = plugin.trial(made, about, payload.encode(), levels=settings.mqtt.max_topic_levels)
    except ValueError as error:
        raise Failure([str(error)], 2) from None
    _print(outcome)
    if any(tried.failed for tried in outcome.rules):
        raise click.exceptions.Exit(1)


def _print(outcome: Any) -> None:
    for tried in outcome.rules:
        if tried.failed:
            click.echo(f"{tried.name}: fails: {printable(tried.why_not)}")
        elif tried.why_not:
            click.echo(f"{tried.name}: does nothing: {printable(tried.why_not)}")
        else:
            click.echo(f"{tried.name}: {'; '.join(map(printable, tried.does)) or 'means it, and changes nothing'}")
    if not outcome.rules:
        click.echo("there is no rule")
    click.echo(f"stored on {printable(outcome.topic)}: {printable(outcome.payload.decode())}")
