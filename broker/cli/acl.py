"""``tideline acl``: the access rules, and which of them decides about somebody.

The running broker is asked (broker.cli.ask). Where none runs, the configuration and the storage are read here, and a rule in
storage is changed by a server of this process.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import click

from broker.access import ACTIONS, AccessRule, stored_place
from broker.cli.ask import Gone, RunningBroker, running_broker
from broker.cli.inspect import print_block
from broker.cli.logs import printable
from broker.cli.rules_here import RulesHere, change_here, new_id
from broker.cli.settings import CANNOT_START, Failure, settings_options, with_settings
from broker.cli.unknown_users import tell_unknown, warn_of_unknown
from broker.config import Settings

Answer = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

NOBODY = "-"
"""As USER: a client that nobody verified."""
_FIRST = "this is the first rule: what no rule allows is denied from now on"
_ABOUT_NOBODY = "the rule is about nobody"
_LAST = "no rule is left: everybody may do everything"


@click.group(short_help="List, add, remove and try access rules.")
@settings_options
def acl(**_: object) -> None:
    """Access rules: those of the configuration, and those in storage, which are added and removed here (docs/access.md)."""


@acl.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@with_settings
def list_(settings: Settings, as_json: bool) -> None:
    """List all rules, and Mosquitto's file where there is one."""
    found = _either(settings, lambda broker: broker.get("/acl/rules"), lambda here: here.listed())
    if as_json:
        for rule in found["rules"]:
            click.echo(json.dumps(rule, ensure_ascii=False))
    elif found["rules"]:
        print_block([["where", "rule"], *([rule["place"], printable(_parsed(rule).text())] for rule in found["rules"])])
    if found["acl_file"] and not as_json:
        click.echo(f"and the lines of {found['acl_file']}")
    if not found["rules"] and not found["acl_file"]:
        click.echo("no rule: everybody may do everything", err=True)


@acl.command()
@click.argument("kind", type=click.Choice(["allow", "deny"]), metavar="allow|deny")
@click.argument("actions")
@click.argument("topics", nargs=-1, required=True)
@click.option("--user", "users", multiple=True, help="Only for this user; may be given more than once.")
@click.option("--id", "rule_id", help="An id of your own; a rule that has it is replaced.")
@with_settings
def add(
    settings: Settings, kind: str, actions: str, topics: tuple[str, ...], users: tuple[str, ...], rule_id: str | None
) -> None:
    """Store a rule that allows or denies ACTIONS on TOPICS (filters), to everybody or to users.

    ACTIONS are publish, subscribe, receive, history, search, separated by commas; read is all but publish, all is all. In
    TOPICS {user} and {client} may stand. It holds for clients that are connected, too, within a second.
    """
    written: Answer = {kind: [action.strip() for action in actions.split(",")], "topics": list(topics)}
    if users:
        written["users"] = list(users)
    try:
        rule = AccessRule.parse(written)
    except ValueError as error:
        raise Failure([str(error)], 2) from None
    key = new_id(rule_id)

    def asked(broker: RunningBroker) -> bool:
        before = broker.get("/acl/rules")
        broker.put(f"/acl/rules/{quote(key, safe='')}", rule.written())
        warn_of_unknown(broker, [f"u/{user}" for user in users], _ABOUT_NOBODY)
        return not before["rules"] and not before["acl_file"]

    def done(here: RulesHere) -> bool:
        first = change_here(settings, here, key, rule)
        tell_unknown([f"u/{user}" for user in here.unknown(users)], _ABOUT_NOBODY)
        return first

    first = _either(settings, asked, done)
    for doubt in rule.doubts():
        click.echo(f"tideline: warning: {printable(doubt)}", err=True)
    click.echo(f"{stored_place(key)}: {rule.text()}")
    if first:
        click.echo(_FIRST, err=True)


@acl.command()
@click.argument("rule_id", metavar="ID")
@with_settings
def remove(settings: Settings, rule_id: str) -> None:
    """Remove the rule ID from storage."""

    def asked(broker: RunningBroker) -> bool:
        broker.delete(f"/acl/rules/{quote(new_id(rule_id), safe='')}")
        after = broker.get("/acl/rules")
        return not after["rules"] and not after["acl_file"]

    last = _either(settings, asked, lambda here: change_here(settings, here, rule_id, None))
    click.echo(f"{stored_place(rule_id)} removed")
    if last:
        click.echo(_LAST, err=True)


@acl.command()
@click.argument("user")
@click.argument("action", type=click.Choice(ACTIONS), metavar="ACTION")
@click.argument("topic")
@click.option("--client", default="", help="The client id, for rules with {client}.")
@with_settings
def check(settings: Settings, user: str, action: str, topic: str, client: str) -> None:
    """Say whether USER may do ACTION on TOPIC, and which rule decides. Exits with 0 where it is allowed, with 1 where not.

    ACTION is publish, subscribe (TOPIC is a filter), receive, history or search. USER - is a client that nobody verified.
    """
    name = "" if user == NOBODY else user
    asked = {"user": name, "client": client, "action": action, "topic": topic}
    verdict = _either(
        settings,
        lambda broker: broker.get(f"/acl/check?{urlencode(asked)}"),
        lambda here: here.check(name, client, action, topic),
    )
    word, why = "allowed" if verdict["allowed"] else "denied", printable(verdict["why"])
    click.echo(why if why.startswith(f"{word} by ") else f"{word}: {why}")
    if not verdict["allowed"]:
        raise click.exceptions.Exit(1)


def _either(settings: Settings, asked: Callable[[RunningBroker], T], here: Callable[[RulesHere], T]) -> T:
    """By the broker that runs, or here. Raises `Failure`."""
    broker = running_broker(settings)
    if broker is None:
        return here(RulesHere(settings))
    try:
        return asked(broker)
    except Gone as error:
        raise Failure([error.told], CANNOT_START) from None


def _parsed(rule: Answer) -> AccessRule:
    names = ("allow", "deny", "topics", "users")
    return AccessRule.parse({name: rule[name] for name in names if rule[name] is not None})
