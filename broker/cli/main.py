"""The command line: ``tideline`` and one of `COMMANDS`.

A command's module is imported when it is asked for: ``tideline passwd`` does not wait for the broker's imports.

Exit codes, the same everywhere: 0 done; 1 found what should not be (`check --strict`, `demo`), or what was asked for was
refused or failed; 2 the command line or the configuration is wrong; 3 the broker or the storage could not be started or
read; 4 the broker had to end by itself.
"""

from __future__ import annotations

import os
from importlib import import_module
from keyword import iskeyword

import click

from broker.cli.interrupts import importing

COMMANDS = (
    "serve",
    "check",
    "completion",
    "doctor",
    "reload",
    "inspect",
    "jobs",
    "cluster",
    "clients",
    "ban",
    "retained",
    "conversation",
    "erase",
    "rules",
    "acl",
    "reindex",
    "backup",
    "restore",
    "export",
    "import",
    "verify",
    "log",
    "trace",
    "demo",
    "passwd",
    "user",
)
"""Each is a function of this name in a module of this name; of ``import``, which is none, it is ``import_``."""


class Commands(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """What is asked for goes to the broker and into storage as UTF-8, which an argument of other bytes has none of."""
        for arg in args:
            if not _is_text(arg):
                raise click.UsageError(f"{os.fsencode(arg)!r}: an argument must be UTF-8 text", ctx)
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        with importing():
            command = getattr(import_module(f"broker.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command


def _is_text(arg: str) -> bool:
    try:
        arg.encode()
    except UnicodeEncodeError:
        return False
    return True


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tideline", message="tideline %(version)s")
def main() -> None:
    """An MQTT broker that stores first, then syncs."""
