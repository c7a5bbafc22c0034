"""``tideline passwd``: the password file of the passwords plugin, or with ``--scram`` that of the scram plugin."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from getpass import GetPassWarning
from pathlib import Path

import click

from broker.access import METHOD, Credential, generated, hashed, name_problem
from broker.cli.settings import Failure, PathType

_ENCODING = "the password must be UTF-8"
_LONGEST = 65_535
"""Bytes of a password: more than that is in no CONNECT."""


@click.command(short_help="Keep a password file.")
@click.argument("file", type=PathType(dir_okay=False, path_type=Path))
@click.argument("user", required=False)
@click.option("--delete", is_flag=True, help="Remove the user.")
@click.option("--scram", is_flag=True, help="Keep SCRAM-SHA-256 credentials instead of Argon2 hashes.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input instead of asking for it.")
@click.option("--generate", is_flag=True, help="Make a random password and print it: the choice for devices.")
def passwd(file: Path, user: str | None, delete: bool, scram: bool, password_stdin: bool, generate: bool) -> None:
    """Add USER to the password FILE, or change the password; without USER list who is in it.

    FILE is made where it is missing, readable by its owner only. Name it in config.yaml as file under passwords, or with
    --scram under scram; the broker reads it when it starts, and at `tideline reload`.
    """
    lines = _read(file)
    if user is None:
        if not file.exists():
            raise Failure([f"{file}: no such file; with a USER it is made"], 1)
        for name in filter(None, map(_name, lines)):
            click.echo(name)
        return
    refuse_name(user)
    refuse_both(password_stdin, generate)
    known = user in map(_name, lines)
    if delete:
        if not known:
            raise Failure([f"{file}: there is no user {user!r}"], 1)
        write(file, [line for line in lines if _name(line) != user])
        click.echo(f"{user} removed from {file}")
        return
    _refuse_mixture(file, lines, scram)
    made = ""
    if generate:
        made, kept = generated()
        entry = f"{user}:{_credential(made) if scram else kept}"
    else:
        entry = f"{user}:{(_credential if scram else hashed)(ask_password(password_stdin))}"
    write(file, [entry if _name(line) == user else line for line in lines] + ([] if known else [entry]))
    click.echo(f"{user} {'changed' if known else 'added'} in {file}", err=bool(made))
    if made:
        click.echo(made)  # alone on standard output, and nowhere else


def _credential(password: str) -> str:
    try:
        return str(Credential.make(password))
    except ValueError as error:
        raise Failure([str(error)], 2) from None


def _refuse_mixture(file: Path, lines: list[str], scram: bool) -> None:
    for line in lines:
        if _name(line) and line.partition(":")[2].startswith(f"{METHOD}$") is not scram:
            kind = "password hashes" if scram else "SCRAM credentials (--scram)"
            raise Failure([f"{file}: holds {kind}; each kind needs a file of its own"], 2)


def write(file: Path, lines: list[str]) -> None:
    """Replace the file as a whole, never seen half written, readable by its owner only."""
    try:
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    except OSError as error:
        raise Failure([f"cannot write {file}: {error.strerror}"], 2) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.writelines(line + "\n" for line in lines)
            out.flush()
            os.fsync(out.fileno())
        if file.exists():
            os.chmod(name, file.stat().st_mode & 0o777)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise


def _read(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise Failure([f"cannot read {file}: {error}"], 2) from None


def _name(line: str) -> str:
    """The user of a line; empty for a comment."""
    name, colon, _ = line.strip().partition(":")
    return name if colon and not name.startswith("#") else ""


def refuse_name(user: str) -> None:
    """Raise `Failure` for a name that cannot be."""
    if problem := name_problem(user):
        raise Failure([problem], 2)


def refuse_both(stdin: bool, generate: bool) -> None:
    """Raise `Failure` where a password is given and one is to be made."""
    if stdin and generate:
        raise Failure(["--generate: beside --password-stdin, one too many"], 2)


def ask_password(stdin: bool) -> str:
    """From the terminal, twice, or with ``--password-stdin`` the first line of standard input: never an argument, which others
    can see."""
    if stdin:
        try:
            password = sys.stdin.readline().rstrip("\r\n")
        except UnicodeDecodeError:
            raise Failure([_ENCODING], 2) from None
        if problem := _problem(password):
            raise Failure([problem], 2)
        return password
    with warnings.catch_warnings():
        warnings.simplefilter("error", GetPassWarning)  # else it would be asked for where it is shown
        try:
            asked = click.prompt(
                "Password", default="", show_default=False, hide_input=True, confirmation_prompt=True, value_proc=_usable
            )
        except GetPassWarning:
            raise Failure(["there is no terminal to ask for the password: give --password-stdin or --generate"], 2) from None
    return str(asked)


def _usable(password: str) -> str:
    if problem := _problem(password):
        raise click.UsageError(problem)  # and it is asked for again
    return password


def _problem(password: str) -> str:
    if not password:
        return "the password must not be empty"
    try:
        length = len(password.encode())
    except UnicodeEncodeError:  # where the locale has Python read other bytes as halves of pairs
        return _ENCODING
    return (
        f"the password has {length} bytes: it must have {_LONGEST} at most, as MQTT carries no more"
        if length > _LONGEST
        else ""
    )
