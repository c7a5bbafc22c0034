"""``tideline ban``: who is not let in. The running broker is asked."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import click

from broker.access import network
from broker.cli.ask import RunningBroker, ask
from broker.cli.clients import key_of, pages, time_of
from broker.cli.inspect import print_block
from broker.cli.logs import printable
from broker.cli.settings import Failure, settings_options
from broker.config import parse_duration


@click.group(short_help="Keep users, client ids and addresses out.")
@settings_options
def ban(**_: object) -> None:
    """Keep users, client ids and addresses out, on all nodes."""


@ban.command()
@click.option("--user", help="A user: USER, u/USER or c/CLIENT.")
@click.option("--client", help="A client id, of whichever user.")
@click.option("--address", help="An IP address, or a network such as 192.0.2.0/24.")
@click.option("--for", "time", metavar="TIME", help="How long: 90s, 15min, 2h, 7d. Without it, for ever.")
@click.option("--reason", default="", help="Why, for other administrators.")
@settings_options
def add(
    user: str | None,
    client: str | None,
    address: str | None,
    time: str | None,
    reason: str,
    config: Path | None,
    data: Path | None,
) -> None:
    """Keep somebody out, and end the connections that there are."""
    given = {"user": key_of(user), "client": client, "address": None if address is None else _network(address)}
    body = {name: value for name, value in given.items() if value is not None}
    if len(body) != 1:
        raise click.UsageError("give one of --user, --client and --address")
    seconds = 0 if time is None else _seconds(time)
    made = ask(config, data, lambda broker: broker.post("/bans", {**body, "seconds": seconds, "reason": reason}))
    until = f" until {time_of(made['until'])}" if made["until"] else ""
    click.echo(f"{printable(made['id'])} is banned{until}")


@ban.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with everything.")
@settings_options
def list_(as_json: bool, config: Path | None, data: Path | None) -> None:
    """List who is kept out."""
    found = ask(config, data, lambda broker: list(pages(broker, "/bans", "bans", {})))
    if as_json:
        for one in found:
            click.echo(json.dumps(one, ensure_ascii=False))
    elif found:
        rows = [[printable(b["id"]), time_of(b["until"]), time_of(b["since"]), b["by"], printable(b["reason"])] for b in found]
        print_block([["ban", "until", "since", "by", "reason"], *rows])
    else:
        click.echo("nothing", err=True)


@ban.command()
@click.argument("ban")
@settings_options
def remove(ban: str, config: Path | None, data: Path | None) -> None:
    """Let somebody in again: BAN is as `tideline ban list` names it, such as user:u/alice, or as `ban add` took it."""

    def call(broker: RunningBroker) -> str:
        key = _known(ban, [one["id"] for one in pages(broker, "/bans", "bans", {})])
        broker.delete(f"/bans/{quote(key, safe='')}")
        return key

    click.echo(f"{printable(ask(config, data, call))} may come again")


def _known(text: str, ids: list[str]) -> str:
    """The one id that is meant. Raises `Failure`."""
    if text in ids:
        return text
    meant = [f"user:{key_of(text)}", f"client:{text}"]
    with suppress(ValueError):
        meant.append(f"address:{network(text)}")
    found = [one for one in meant if one in ids]
    if len(found) > 1:
        raise Failure([f"ban {text[:80]!r}: say which of {' and '.join(found)}"], 2)
    if not found:
        raise Failure([f"ban {text[:80]!r}: there is none; `tideline ban list` names those that there are"], 1)
    return found[0]


def _network(text: str) -> str:
    try:
        return str(network(text))
    except ValueError as error:
        wanted = "must be an IP address or a network such as 192.0.2.0/24"
        raise click.BadParameter(f"{text!r}: {wanted}: {error}", param_hint="--address") from None


def _seconds(text: str) -> int:
    try:
        found = parse_duration(text)
    except ValueError:
        found = None
    if not isinstance(found, int | float) or found < 1:
        raise click.BadParameter(f"{text!r}: must be a time of a second or more, such as 15min or 7d", param_hint="--for")
    return int(found)
