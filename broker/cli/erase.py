"""``tideline erase``: take away all that a user published, or that was said in a conversation. The running broker does it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from broker.cli.ask import RunningBroker, ask
from broker.cli.clients import key_of
from broker.cli.logs import printable
from broker.cli.progress import Progress
from broker.cli.settings import settings_options

_LOOK = 0.3
"""Seconds between two looks at how far it is."""


@click.group(short_help="Erase a user, or a conversation.")
@settings_options
def erase(**_: object) -> None:
    """Erase a user, or a conversation: see docs/recall.md for what that reaches, and what not.

    It goes on in the broker where this command is ended, and over restarts. Said again, it tells how far it is.
    """


sure = click.option("--yes", is_flag=True, help="Don't ask.")


@erase.command()
@click.argument("user")
@sure
@settings_options
def user(user: str, yes: bool, config: Path | None, data: Path | None) -> None:
    """Recall all that USER published, and forget its devices, inbox, tokens and account. USER is a name, u/NAME or c/CLIENT."""
    key = key_of(user) or user
    _confirm(yes, f"erase user {key}: all of its messages, devices and its account?")
    _erase(config, data, {"user": key}, f"user/{quote(key, safe='/')}")


@erase.command()
@click.argument("topic")
@sure
@settings_options
def conversation(topic: str, yes: bool, config: Path | None, data: Path | None) -> None:
    """Recall all that was published to TOPIC."""
    erase_conversation(topic, yes, config, data)


def erase_conversation(topic: str, yes: bool, config: Path | None, data: Path | None) -> None:
    """Ask whether it is to be, have it done, and wait until it is."""
    _confirm(yes, f"erase conversation {topic}: all of its messages, and who is a member?")
    _erase(config, data, {"conversation": topic}, f"conversation/{quote(topic, safe='/')}")


def _confirm(yes: bool, question: str) -> None:
    if not yes:
        click.confirm(printable(question), abort=True, err=True)


def _erase(config: Path | None, data: Path | None, body: dict[str, str], path: str) -> None:
    done = ask(config, data, lambda broker: _watched(broker, body, path))
    failed = f", {done['failed']:,} could not be (the broker's log says why)" if done["failed"] else ""
    click.echo(f"{printable(done['name'])} is erased: {done['recalled']:,} messages recalled{failed}")
    if not done["recalled"] and not failed:
        click.echo("there was none: is the name right?", err=True)
    if failed:
        raise click.exceptions.Exit(1)


def _watched(broker: RunningBroker, body: dict[str, str], path: str) -> dict[str, Any]:
    state: dict[str, Any] = broker.post("/erasures", body)
    with Progress("erased, in thousandths", 1000) as progress:
        while state["state"] != "done":
            progress.reach(state["permille"], 1000)
            time.sleep(_LOOK)
            state = broker.get(f"/erasures/{path}")
        progress.reach(1000, 1000)
    return state
