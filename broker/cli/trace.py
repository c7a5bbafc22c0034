"""``tideline trace``: what one client, user or topic does, as it happens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import click

from broker.cli.ask import Gone, RunningBroker, running_broker
from broker.cli.clients import key_of
from broker.cli.logs import printable
from broker.cli.settings import CANNOT_START, WRONG_CONFIGURATION, Failure, read_settings, settings_options
from broker.config import Settings, parse_duration, split_bind


class Seconds(click.ParamType[float]):
    """A duration, as in config.yaml."""

    name = "DURATION"

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> float:
        try:
            seconds = float(parse_duration(value))  # type: ignore[arg-type]
        except ValueError as error:
            self.fail(f"{value!r} {error}")
        if not 0 < seconds <= 3600:
            self.fail(f"{value!r} must be more than 0 and at most 1h")
        return seconds


@click.command(short_help="Follow what one client, user or topic does.")
@click.option("--client", default="", help="A client id.")
@click.option("--user", default="", help="A user: a name, or a user key (u/name, c/client-id).")
@click.option("--topic", default="", help="A topic filter.")
@click.option("--for", "seconds", type=Seconds(), default="60s", show_default=True, help="How long.")
@click.option("--payloads", is_flag=True, help="Show payloads too, which are people's own.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with everything.")
@click.option("--worker", type=click.IntRange(1, 1024), help="Ask this worker, at its port of plugins.http.node_bind.")
@settings_options
def trace(
    client: str,
    user: str,
    topic: str,
    seconds: float,
    payloads: bool,
    as_json: bool,
    worker: int | None,
    config: Path | None,
    data: Path | None,
) -> None:
    """Follow what one client, user or topic does on the running broker: packets by type with their identifiers, QoS, topics,
    sizes and reason codes, what is stored and where, deliveries and acknowledgements. At least one of the three must be given,
    and all that are must match. ^C ends it.
    """
    if not (client or user or topic):
        raise click.UsageError("say what is traced: --client, --user or --topic")
    settings = read_settings(config, data)
    broker = running_broker(settings)
    if broker is None:
        raise Failure(["no running broker was found"], CANNOT_START)
    if worker is not None:
        broker = _worker(settings, broker, worker)
    asked = {"client": client, "user": key_of(user), "topic": topic}
    query = {**{name: value for name, value in asked.items() if value}, "for": seconds, "payloads": str(payloads).lower()}
    try:
        with suppress(KeyboardInterrupt):
            for event in broker.lines(f"/trace?{urlencode(query)}"):
                click.echo(json.dumps(event, ensure_ascii=False) if as_json else line_of(event))
    except Gone as error:
        raise Failure([str(error)], CANNOT_START) from None


def _worker(settings: Settings, broker: RunningBroker, number: int) -> RunningBroker:
    bind = str((settings.plugins.get("http") or {}).get("node_bind", ""))
    if not bind:
        raise Failure(["--worker needs plugins.http.node_bind, which gives each worker a port"], WRONG_CONFIGURATION)
    host, port = split_bind(bind)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    place = f"[{host}]:{port + number - 1}" if ":" in host else f"{host}:{port + number - 1}"
    return RunningBroker(f"{urlsplit(broker.url).scheme}://{place}", broker.secret, broker.certfile)


def line_of(event: dict[str, Any]) -> str:
    """An event for people: time, what happened, to whom, and the rest by name."""
    rest = dict(event)
    words = [str(rest.pop("time", ""))[11:23], str(rest.pop("event")), str(rest.pop("packet", ""))]
    return printable(" ".join([word for word in words if word] + list(_named(rest))))


def _named(values: dict[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if value is not False:
            yield f"{name}={json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value)}"
