"""``tideline clients``: who is connected, or could be, and the end of a connection. The running broker is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import click

from broker.cli.ask import RunningBroker, ask
from broker.cli.inspect import print_block
from broker.cli.logs import printable
from broker.cli.settings import settings_options

Answer = dict[str, Any]
_user = click.option("--user", help="Whose client: USER, u/USER or c/CLIENT. Needed where several users have one of this id.")


@click.group(short_help="List clients, show one, end a connection.")
@settings_options
def clients(**_: object) -> None:
    """List clients, show one, or end its connection, on whichever node it is."""


@clients.command("list")
@click.option("--user", help="Only this user's: USER, u/USER or c/CLIENT.")
@click.option("--connected/--away", default=None, help="Only those that are connected, or are not.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with everything.")
@settings_options
def list_(user: str | None, connected: bool | None, as_json: bool, config: Path | None, data: Path | None) -> None:
    """List clients that are connected, and durable sessions that wait for theirs."""
    asked = {"user": key_of(user), "connected": None if connected is None else str(connected).lower()}
    found = ask(config, data, lambda broker: list(pages(broker, "/clients", "clients", asked)))
    if as_json:
        for client in found:
            click.echo(json.dumps(client, ensure_ascii=False))
    elif found:
        print_block([["user", "client", "state", "address", "protocol", "since", "subscriptions", "lag"], *map(_row, found)])
    else:
        click.echo("nothing", err=True)


@clients.command()
@click.argument("client")
@_user
@settings_options
def show(client: str, user: str | None, config: Path | None, data: Path | None) -> None:
    """Show CLIENT with all that is known of it, and its subscriptions."""
    path = f"/clients/{quote(client, safe='')}{_query(user=key_of(user))}"

    def both(broker: RunningBroker) -> tuple[Answer, list[Answer]]:
        one: Answer = broker.get(path)
        of = list(pages(broker, "/subscriptions", "subscriptions", {"user": one["user"]}))
        return one, [subscription for subscription in of if subscription["client"] == client]

    found, subscriptions = ask(config, data, both)
    found["since"], found["expires_at"] = time_of(found["since"]), time_of(found["expires_at"])
    filters = [["filter", f"{s['filter']} (QoS {s['qos']})"] for s in subscriptions]
    del found["subscriptions"]
    print_block([*([name, printable(_word(value))] for name, value in found.items()), *filters])


@clients.command()
@click.argument("client")
@_user
@click.option("--forget", is_flag=True, help="End the session too: subscriptions, offset and what is in flight.")
@settings_options
def kick(client: str, user: str | None, forget: bool, config: Path | None, data: Path | None) -> None:
    """End the connection of CLIENT. It may connect again: `tideline ban add` keeps it out."""
    path = f"/clients/{quote(client, safe='')}{_query(user=key_of(user), forget='true' if forget else None)}"
    found = ask(config, data, lambda broker: broker.delete(path))
    what = "session" if forget else "connection"
    click.echo(f"{what} of {printable(client)} ended, of {', '.join(map(printable, found['users']))}")
    _silent(found)


def key_of(user: str | None) -> str | None:
    """The key of a user as it was typed: a bare name is a verified user's. None and empty stay as they are."""
    return user if not user or user.startswith(("u/", "c/")) else f"u/{user}"


def pages(broker: RunningBroker, path: str, what: str, asked: dict[str, Any]) -> Iterator[Answer]:
    """All that a list of the API has, read in pages."""
    after = None
    while True:
        page = broker.get(f"{path}{_query(**asked, after=after, limit=500)}")
        yield from page[what]
        after = page["next"]
        if after is None:
            _silent(page)
            return


def _silent(answer: Answer) -> None:
    if answer.get("silent"):
        click.echo(f"nodes that did not answer, so that theirs is missing: {', '.join(answer['silent'])}", err=True)


def _query(**asked: Any) -> str:
    given = {name: value for name, value in asked.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def _row(client: Answer) -> list[str]:
    state = "connected" if client["connected"] else "away"
    values = [client["user"], client["client"], state, client["address"], client["protocol"], time_of(client["since"])]
    return [printable(_word(value)) for value in (*values, client["subscriptions"], client["lag"])]


def _word(value: Any) -> str:
    return "" if value is None else str(value)


def time_of(milliseconds: int | None) -> str:
    """Local time."""
    if not milliseconds:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().isoformat(sep=" ", timespec="seconds")
