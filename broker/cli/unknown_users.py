"""Who is named and is none of the users in storage: a warning, no error, as another plugin may let them in."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

import click

from broker.cli.ask import Gone, Refused, RunningBroker
from broker.cli.logs import printable


def warn_of_unknown(broker: RunningBroker, users: Iterable[str], otherwise: str) -> None:
    """Say who of these keys is none of the users in storage, where there are any, and what that means. What keeps this from
    being known is no error either: what the command is for is done."""
    try:
        if broker.get("/users?limit=1")["users"]:
            tell_unknown([user for user in users if user.startswith("u/") and not _is_user(broker, user)], otherwise)
    except (Refused, Gone) as error:
        if not isinstance(error, Refused) or error.status:  # else the plugin accounts is not there
            click.echo(f"tideline: warning: whether all of these are users is not known: {printable(str(error))}", err=True)


def tell_unknown(users: Iterable[str], otherwise: str) -> None:
    """Say of each of these keys that it is no user in storage."""
    for user in users:
        text = f"is no user in storage (tideline user list): unless another plugin lets it in, {otherwise}"
        click.echo(f"tideline: warning: {printable(user)} {text}", err=True)


def _is_user(broker: RunningBroker, user: str) -> bool:
    try:
        broker.get(f"/users/{quote(user[2:], safe='')}")
    except Refused as refused:
        if refused.status != 404:
            raise
        return False
    return True
