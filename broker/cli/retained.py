"""``tideline retained``: list retained messages, and clear them. The running broker is asked."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from broker.cli.ask import RunningBroker, ask
from broker.cli.clients import pages
from broker.cli.inspect import print_block
from broker.cli.logs import printable
from broker.cli.settings import Failure, settings_options

_SHOWN = 60


@click.group(short_help="List retained messages, and clear them.")
@settings_options
def retained(**_: object) -> None:
    """List retained messages, and clear them."""


@retained.command("list")
@click.argument("filter", default="#")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with everything.")
@settings_options
def list_(filter: str, as_json: bool, config: Path | None, data: Path | None) -> None:
    """List the retained messages that FILTER matches; without it all but those below $."""
    found = ask(config, data, lambda broker: list(pages(broker, "/retained", "messages", {"filter": filter})))
    if as_json:
        for message in found:
            click.echo(json.dumps(message, ensure_ascii=False))
    elif found:
        rows = [[printable(m["topic"]), m["sender"], printable(_payload(m))[:_SHOWN]] for m in found]
        print_block([["topic", "sender", "payload"], *rows])
    else:
        click.echo("nothing", err=True)


def _payload(message: dict[str, Any]) -> str:
    """A payload in a line: text as it is, JSON as JSON, and of what is neither that it is shown as base64."""
    encoding, payload = message["encoding"], message["payload"]
    if encoding == "json":
        return json.dumps(payload, ensure_ascii=False)
    return f"(base64) {payload}" if encoding == "base64" else str(payload)


@retained.command()
@click.argument("filter")
@settings_options
def clear(filter: str, config: Path | None, data: Path | None) -> None:
    """Clear the retained messages that FILTER matches, as an empty retained message to each topic does."""

    def all_of_them(broker: RunningBroker) -> int:
        topics = [message["topic"] for message in pages(broker, "/retained", "messages", {"filter": filter})]
        for topic in topics:
            with suppress(Failure):  # somebody else cleared it meanwhile: what is left is told below
                broker.delete(f"/retained/{quote(topic)}")
        left = sum(1 for _ in pages(broker, "/retained", "messages", {"filter": filter}))
        if left:
            raise Failure([f"{left} of {len(topics)} retained messages are still there, or there again"], 1)
        return len(topics)

    click.echo(f"{ask(config, data, all_of_them)} retained messages cleared")
