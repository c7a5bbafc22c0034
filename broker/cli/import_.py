"""``tideline import``: a database made of what `tideline export` wrote, or a configuration of another system's files."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from broker.cli.export import said
from broker.cli.mosquitto import mosquitto
from broker.cli.place import address, forget_index, place_options, tell_of_attachments
from broker.cli.progress import Progress
from broker.cli.settings import CANNOT_START, Failure, PathType
from storage.errors import StorageError, StorageUnusable
from storage.factory import open_target
from storage.transfer import DamagedExport, ExportReader, Sequences


class Imports(click.Group):
    """A command of a file, unless its first word is the name of another system, which is a subcommand."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if next((word for word in args if not word.startswith("-")), "") in self.commands:
            return super().make_context(info_name, args, parent, **extra)
        return import_file.make_context(info_name, args, parent, **extra)


@click.group(cls=Imports, short_help="Make a database of what was exported.")
def import_() -> None:
    """Make a database of what was exported, or a configuration of another system's files."""


import_.add_command(mosquitto)


class ExportFile(PathType):
    """A file, for which a shell also offers the names of other systems once one of them is begun."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        named = [CompletionItem(name) for name in import_.commands if incomplete and name.startswith(incomplete)]
        return named or super().shell_complete(ctx, param, incomplete)


@click.command("import")
@click.argument("file", type=ExportFile(exists=True, dir_okay=False, path_type=Path))
@click.option("--anew", is_flag=True, help="MongoDB: an import that another machine began has ended; begin anew.")
@place_options
def import_file(file: Path, anew: bool, config: Path | None, data: Path | None, url: str | None) -> None:
    """Make a database of FILE, which `tideline export` wrote of a database of any kind.

    The database is empty, and no broker serves it. It is filled as one step: interrupted or killed, it is as empty as before.
    Clients that may be ahead of the file are told to begin anew: docs/backup.md. Another command, `tideline import mosquitto`,
    makes a configuration of a mosquitto.conf.
    """
    try:
        counts = asyncio.run(read_export(file, address(config, data, url), anew=anew))
    except StorageError as error:
        raise Failure([" ".join(str(error).split())], CANNOT_START) from None
    except DamagedExport as error:
        raise Failure([str(error), "nothing was imported"], 1) from None
    except OSError as error:
        raise Failure([f"{error.filename or file}: {error.strerror or error}; nothing was imported"], 1) from None
    click.echo(f"imported {said(counts)}")
    tell_of_attachments(config, data, url, coming=True)
    forget_index(config, data, url)


async def read_export(file: Path, url: str, *, anew: bool = False, aside: Path | None = None) -> dict[str, int]:
    """Import a file; how many records of each kind. ``anew``, ``aside``: see `storage.factory.open_target`.

    Raises `StorageError`, `DamagedExport` and OSError.
    """
    counts: Counter[str] = Counter()
    with ExportReader(file) as reader:
        async with open_target(url, anew=anew, aside=aside) as target:
            sequences = Sequences()
            with Progress("importing", reader.about.records) as progress:
                for records in reader.records():
                    try:
                        sequences.check(records)
                        await target.write(records)
                    except (ValueError, TypeError) as error:
                        raise StorageUnusable(f"{file}: {error}") from error
                    counts.update(record[0] for record in records)
                    progress.add(len(records))
            await target.finish()
    return dict(counts)
