"""``tideline conversation``: conversations with members. The running broker is asked.

A user is a name, u/NAME or c/CLIENT.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import click

from broker.cli.ask import RunningBroker, ask
from broker.cli.clients import key_of, pages, time_of
from broker.cli.erase import erase_conversation, sure
from broker.cli.inspect import print_block
from broker.cli.logs import printable
from broker.cli.settings import settings_options
from broker.cli.unknown_users import warn_of_unknown

Answer = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])

_ROLES = ("owner", "admin", "member", "read-only")
_HISTORIES = ("start", "joining")
_NOBODY_READS = "nobody reads this"
_role = click.option("--role", type=click.Choice(_ROLES), help="Else member, and in a channel read-only.")
_as = click.option("--as", "actor", metavar="USER", help="In the name of this user. Else of the operator.")
_as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with everything.")


@click.group(short_help="Keep conversations with members: create, list, show, add, remove, ….")
@settings_options
def conversation(**_: object) -> None:
    """Keep conversations with members: see docs/conversations.md. The plugin conversations keeps them.

    USER is a name, u/NAME or c/CLIENT. TOPIC is the conversation's.
    """


@conversation.command()
@click.argument("kind", type=click.Choice(("direct", "group", "channel")))
@click.option("--name", default="", help="What people call it.")
@click.option("--topic", default="", help="Of a group: its topic. Else the broker gives one.")
@click.option("--history", type=click.Choice(_HISTORIES), default="start", show_default=True, help="What new members see.")
@click.option("--member", "members", metavar="USER", multiple=True, help="Who is in it. May stand there again and again.")
@_as
@settings_options
def create(
    kind: str,
    name: str,
    topic: str,
    history: str,
    members: tuple[str, ...],
    actor: str | None,
    config: Path | None,
    data: Path | None,
) -> None:
    """Begin a conversation of this KIND, and print its topic. Who is named by --as owns it; one of kind direct needs that."""
    body: Answer = {"kind": kind, "name": name, "topic": topic, "history": history, "members": [_key(user) for user in members]}

    def begun(broker: RunningBroker) -> Answer:
        made: Answer = broker.post(f"/conversations{_for(actor)}", body)
        warn_of_unknown(broker, [*([_key(actor)] if actor else []), *body["members"]], _NOBODY_READS)
        return made

    made = ask(config, data, begun)
    click.echo(printable(made["topic"]))


@conversation.command("list")
@click.argument("user")
@_as_json
@settings_options
def list_(user: str, as_json: bool, config: Path | None, data: Path | None) -> None:
    """List what USER is a member of, or invited to, what was active last first."""
    asked = {"user": _key(user)}
    found = ask(config, data, lambda broker: list(pages(broker, "/me/conversations", "conversations", asked)))
    if as_json:
        _as_lines(found)
    elif found:
        print_block([["topic", "kind", "name", "role", "", "active", "unread", "mentions", "total"], *map(_row, found)])
    else:
        click.echo("nothing", err=True)


@conversation.command()
@click.argument("topic")
@_as
@_as_json
@settings_options
def show(topic: str, actor: str | None, as_json: bool, config: Path | None, data: Path | None) -> None:
    """Show a conversation, and its members."""

    def both(broker: RunningBroker) -> tuple[Answer, list[Answer]]:
        asked = {} if actor is None else {"user": _key(actor)}
        return broker.get(_path(topic, "about", actor)), list(pages(broker, _path(topic, "members"), "members", asked))

    about, members = ask(config, data, both)
    if as_json:
        _as_lines([{**about, "members": members}])
        return
    about["created"], about["owners"] = time_of(about["created"]), ", ".join(about["owners"])
    print_block([[name, printable(value)] for name, value in about.items() if name != "mine"])
    rows = [[m["user"], m["role"], "invited" if m["invited"] else time_of(m["joined"]), m["by"]] for m in members]
    print_block([["member", "role", "since", "by"], *([printable(word) for word in row] for row in rows)])


@conversation.command()
@click.argument("topic")
@click.option("--name", help="What people call it.")
@click.option("--history", type=click.Choice(_HISTORIES), help="What those see who join from now on.")
@_as
@settings_options
def change(
    topic: str, name: str | None, history: str | None, actor: str | None, config: Path | None, data: Path | None
) -> None:
    """Give a conversation another name, or show new members another history."""
    body = {key: value for key, value in (("name", name), ("history", history)) if value is not None}
    if not body:
        raise click.UsageError("give --name, --history or both")
    ask(config, data, lambda broker: broker.patch(_path(topic, "about", actor), body))
    click.echo(f"{printable(topic)} changed")


@conversation.command()
@click.argument("topic")
@click.argument("user")
@_role
@_as
@settings_options
def add(topic: str, user: str, role: str | None, actor: str | None, config: Path | None, data: Path | None) -> None:
    """Make USER a member."""
    member = _put(config, data, topic, user, actor, {"role": role})
    click.echo(f"{printable(member['user'])} is {member['role']}{', once it has joined' if member['invited'] else ''}")


@conversation.command()
@click.argument("topic")
@click.argument("user")
@_role
@_as
@settings_options
def invite(topic: str, user: str, role: str | None, actor: str | None, config: Path | None, data: Path | None) -> None:
    """Have USER be a member once it has joined."""
    member = _put(config, data, topic, user, actor, {"role": role, "invite": True})
    click.echo(f"{printable(member['user'])} is {'invited' if member['invited'] else member['role'] + ' already'}")


@conversation.command()
@click.argument("topic")
@click.argument("user")
@settings_options
def join(topic: str, user: str, config: Path | None, data: Path | None) -> None:
    """Have USER accept an invitation."""
    ask(config, data, lambda broker: broker.post(_path(topic, "join", user)))
    click.echo(f"{printable(_key(user))} has joined")


@conversation.command()
@click.argument("topic")
@click.argument("user")
@click.argument("role", type=click.Choice(_ROLES))
@_as
@settings_options
def role(topic: str, user: str, role: str, actor: str | None, config: Path | None, data: Path | None) -> None:
    """Give the member USER another ROLE. Who is no member is invited, or added, by a command of its own."""
    member = _put(config, data, topic, user, actor, {"role": role, "existing": True})
    click.echo(f"{printable(member['user'])} is {member['role']}")


@conversation.command()
@click.argument("topic")
@click.argument("user")
@_as
@settings_options
def remove(topic: str, user: str, actor: str | None, config: Path | None, data: Path | None) -> None:
    """Remove a member, or withdraw an invitation. USER gets nothing more from then on."""
    ask(config, data, lambda broker: broker.delete(_path(topic, _member(user), actor)))
    click.echo(f"{printable(_key(user))} removed")


@conversation.command()
@click.argument("topic")
@click.argument("user")
@settings_options
def leave(topic: str, user: str, config: Path | None, data: Path | None) -> None:
    """Have USER leave, or refuse an invitation. The last owner stays while others are there."""
    ask(config, data, lambda broker: broker.delete(_path(topic, _member(user), user)))
    click.echo(f"{printable(_key(user))} has left")


@conversation.command()
@click.argument("topic")
@click.argument("user")
@click.option("--off", is_flag=True, help="Have USER notified again.")
@settings_options
def mute(topic: str, user: str, off: bool, config: Path | None, data: Path | None) -> None:
    """Have USER not notified of what is said there. Messages come all the same."""
    ask(config, data, lambda broker: broker.put(_path(topic, "mute", user), {"muted": not off}))
    click.echo(f"{printable(topic)} is {'not ' if off else ''}muted for {printable(_key(user))}")


@conversation.command()
@click.argument("topic")
@sure
@settings_options
def erase(topic: str, yes: bool, config: Path | None, data: Path | None) -> None:
    """Recall all that was said there, and forget the conversation: as `tideline erase conversation`."""
    erase_conversation(topic, yes, config, data)


def _put(config: Path | None, data: Path | None, topic: str, user: str, actor: str | None, body: Answer) -> Answer:
    given = {name: value for name, value in body.items() if value is not None}

    def put(broker: RunningBroker) -> Answer:
        member: Answer = broker.put(_path(topic, _member(user), actor), given)
        if "existing" not in given:
            warn_of_unknown(broker, [_key(user)], _NOBODY_READS)
        return member

    return ask(config, data, put)


def _key(user: str) -> str:
    return key_of(user) or user


def _member(user: str) -> str:
    return f"members/{quote(_key(user), safe='/')}"


def _path(topic: str, what: str, actor: str | None = None) -> str:
    return f"/conversations/{quote(topic, safe='/')}/{what}{_for(actor)}"


def _for(actor: str | None) -> str:
    return "" if actor is None else f"?{urlencode({'user': _key(actor)})}"


def _as_lines(found: list[Answer]) -> None:
    for one in found:
        click.echo(json.dumps(one, ensure_ascii=False))


def _row(one: Answer) -> list[str]:
    marks = ", ".join(word for word in ("invited", "muted") if one[word])
    values = [one["topic"], one["kind"], one["name"], one["role"], marks, time_of(one["active"])]
    return [printable(str(value)) for value in (*values, one["unread"], one["mentions"], one["total"])]
