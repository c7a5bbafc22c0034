"""``tideline restore``: a backup, or an export, in the place of the data."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from broker.cli.export import said
from broker.cli.import_ import read_export
from broker.cli.place import address, forget_index, place_options, tell_of_attachments
from broker.cli.progress import Progress
from broker.cli.settings import CANNOT_START, Failure, PathType
from storage.errors import StorageError
from storage.factory import open_backup
from storage.transfer import DamagedExport

_GZIP = b"\x1f\x8b"


@click.command(short_help="Put a backup in the place of the data.")
@click.argument("file", type=PathType(exists=True, dir_okay=False, path_type=Path))
@place_options
def restore(file: Path, config: Path | None, data: Path | None, url: str | None) -> None:
    """Put FILE, which `tideline backup` or `export` wrote, in the place of the data. No broker serves it.

    SQLite: it is made ready beside the data and takes its place by one rename; what was there is kept under another name.
    MongoDB: the database must be empty, as for `tideline import`.

    Clients that may be ahead of the file are told to begin anew: docs/backup.md.
    """
    place = address(config, data, url)
    try:
        _restore(file, place)
    except StorageError as error:
        raise Failure([" ".join(str(error).split()), "the data is as it was"], CANNOT_START) from None
    except DamagedExport as error:
        raise Failure([str(error), "the data is as it was"], 1) from None
    except OSError as error:
        raise Failure([f"{error.filename or file}: {error.strerror or error}", "the data is as it was"], 1) from None
    tell_of_attachments(config, data, url, coming=True)
    forget_index(config, data, url)


def _restore(file: Path, url: str) -> None:
    with file.open("rb") as opened:
        is_export = opened.read(2) == _GZIP
    found = open_backup(url)
    if found is None:
        if not is_export:
            raise Failure(
                [f"{file} is a backup of SQLite: tideline export --url sqlite:///{file} makes a file that MongoDB can import"],
                1,
            )
        click.echo(f"restored {said(asyncio.run(read_export(file, url)))}")
        return
    aside = found.path.with_name(f"{found.path.name}.before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    if is_export:
        click.echo(f"restored {said(asyncio.run(read_export(file, url, aside=aside)))}")
    else:
        with Progress("restoring", 0) as progress:
            found.restore(file, aside, progress.reach)
        click.echo(f"restored {file}")
    if aside.exists():
        click.echo(f"what was there is {aside}: remove it once nobody needs it")
