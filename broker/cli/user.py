"""``tideline user``: the users in storage, of the running broker or where none runs.

A password is asked for, read from standard input, or made here; it is never an argument, and only its hash is sent.
"""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from broker.access import Account, generated, hash_problem, hashed, name_problem
from broker.cli.inspect import print_block
from broker.cli.passwd import ask_password, refuse_both, refuse_name
from broker.cli.settings import Failure, PathType, settings_options, with_settings
from broker.cli.users_there import with_users
from broker.config import Settings
from broker.hooks import Imported, Users

F = TypeVar("F", bound=Callable[..., Any])

_TOLD = 20
"""Wrong lines of one file that are told."""


def _password(command: F) -> F:
    stdin = click.option(
        "--password-stdin", is_flag=True, help="Read the password from standard input instead of asking for it."
    )
    made = click.option("--generate", is_flag=True, help="Make a random password and print it: the choice for devices.")
    return stdin(made(command))


@click.group(short_help="Keep the users: add, passwd, disable, enable, delete, list, import.")
@settings_options
def user(**_: object) -> None:
    """Keep the users in storage. With the first one, anonymous clients are refused.

    The running broker is asked, and what shuts a user out ends the user's connections within a second, on every node. Where
    none runs, the data is changed here.
    """


@user.command()
@click.argument("name")
@_password
@with_settings
def add(settings: Settings, name: str, password_stdin: bool, generate: bool) -> None:
    """Add the user NAME."""
    refuse_name(name)
    password, kept = _new_password(password_stdin, generate)

    async def action(users: Users) -> bool:
        first = not users.all()
        await users.add(name, kept)
        return first

    first = with_users(settings, action, make=True)
    _said(f"{name} added", password)
    if first:
        click.echo("this is the first user: anonymous clients are refused from now on, unless accounts says so", err=True)


@user.command()
@click.argument("name")
@_password
@with_settings
def passwd(settings: Settings, name: str, password_stdin: bool, generate: bool) -> None:
    """Give the user NAME another password. Connections end, and the tokens are revoked."""
    password, kept = _new_password(password_stdin, generate)
    with_users(settings, lambda users: users.change(name, hash=kept))
    _said(f"{name} has another password", password)


@user.command()
@click.argument("name")
@with_settings
def disable(settings: Settings, name: str) -> None:
    """Shut the user NAME out, until `enable`. Sessions and messages stay."""
    with_users(settings, lambda users: users.change(name, disabled=True))
    click.echo(f"{name} disabled")


@user.command()
@click.argument("name")
@with_settings
def enable(settings: Settings, name: str) -> None:
    """Let the user NAME in again."""
    with_users(settings, lambda users: users.change(name, disabled=False))
    click.echo(f"{name} enabled")


@user.command()
@click.argument("name")
@with_settings
def delete(settings: Settings, name: str) -> None:
    """Forget the user NAME, and revoke the tokens. Devices, messages and memberships stay; `tideline erase user`
    removes them."""
    with_users(settings, lambda users: users.delete(name))
    click.echo(f"{name} deleted")
    typed = f"u/{name}" if name.startswith(("u/", "c/")) else name
    click.echo(
        f"devices, messages and memberships of {name} stay, and a later user of that name gets them; "
        f"`tideline erase user {shlex.quote(typed)}` removes them",
        err=True,
    )


@user.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line. Times are milliseconds since 1970.")
@with_settings
def list_users(settings: Settings, as_json: bool) -> None:
    """List the users."""

    async def action(users: Users) -> list[Account]:
        return users.all()

    found = with_users(settings, action)
    if as_json:
        for account in found:
            shown = {key: value for key, value in account._asdict().items() if key != "hash"}
            click.echo(json.dumps(shown, ensure_ascii=False))
    elif found:
        rows = [[account.name, "disabled" if account.disabled else "", _time(account.changed)] for account in found]
        print_block([["user", "", "changed"], *rows])
    else:
        click.echo("nobody", err=True)


@user.command("import")
@click.argument("file", type=PathType(exists=True, dir_okay=False, path_type=Path))
@click.option("--replace", is_flag=True, help="Give those who are there already the hash that is in FILE.")
@with_settings
def import_users(settings: Settings, file: Path, replace: bool) -> None:
    """Add the users of FILE: a password file as `tideline passwd` writes it, or lines of a name, a comma and a hash.

    One line that is wrong keeps all out.
    """
    users = _read(file)

    async def action(there: Users) -> Imported:
        return await there.take(users, replace=replace)

    outcome = with_users(settings, action, make=True)
    kept = f", {outcome.kept} left as they were" if outcome.kept else ""
    click.echo(f"{outcome.added} added, {outcome.changed} changed{kept}")


def _new_password(stdin: bool, generate: bool) -> tuple[str, str]:
    """A password that was made here, or nothing; and what is kept of it."""
    refuse_both(stdin, generate)
    if generate:
        return generated()
    return "", hashed(ask_password(stdin))


def _said(what: str, password: str) -> None:
    click.echo(what, err=bool(password))
    if password:
        click.echo(password)  # alone on standard output, and nowhere else


def _read(file: Path) -> dict[str, str]:
    """User → hash. Raises `Failure` naming the lines that are wrong, and nothing of what stands in it but the name."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Failure([f"cannot read {file}: {reason}"], 2) from None
    users: dict[str, str] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, hash = _parted(line.strip())
        problem = name_problem(name) or (f"user {name!r} is there twice" if name in users else hash_problem(name, hash))
        if problem:
            problems.append(f"{file}, line {number}: {problem}")
        users[name] = hash
    if problems:
        more = len(problems) - _TOLD
        raise Failure([*problems[:_TOLD], *([f"{file}: and {more} lines more"] if more > 0 else [])], 2)
    return users


def _parted(line: str) -> tuple[str, str]:
    """Name and hash, which has commas itself."""
    name, colon, hash = line.partition(":")
    if colon and "," not in name:
        return name, hash
    name, *rest = next(csv.reader([line]))
    return name.strip(), ",".join(rest).strip()


def _time(milliseconds: int) -> str:
    """Local time."""
    return datetime.fromtimestamp(milliseconds / 1000).astimezone().isoformat(sep=" ", timespec="seconds")
