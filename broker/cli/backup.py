"""``tideline backup`` and ``tideline restore``: a copy beside the broker that serves, and the way back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import click

from broker.cli.export import write_export
from broker.cli.place import address, place_options, tell_of_attachments
from broker.cli.progress import Progress
from broker.cli.settings import CANNOT_START, Failure, PathType
from storage.errors import StorageError
from storage.factory import open_backup


@click.command(short_help="Copy the data, beside the broker that serves it.")
@click.argument("target", metavar="FILE|DIRECTORY", type=PathType(path_type=Path))
@place_options
def backup(target: Path, **place: Any) -> None:
    """Copy the data to FILE, or to a new file in DIRECTORY, beside the broker that serves it.

    Of SQLite it is a copy of the database, with its checksum beside it. Of MongoDB it is what `tideline export` writes.
    """
    url = address(**place)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    try:
        found = open_backup(url)
        file = target / f"tideline-{stamp}.{'export' if found is None else 'db'}" if target.is_dir() else target
        if file.exists():
            raise Failure([f"{file} is there already: remove it, or name another file or a directory"], 1)
        if found is None:
            asyncio.run(write_export(url, file))
        else:
            with Progress("copying", 0) as progress:
                found.save(file, progress.reach)
    except StorageError as error:
        raise Failure([" ".join(str(error).split())], CANNOT_START) from None
    except ValueError as error:
        raise Failure([f"{error}: the data is damaged; tideline verify says more, and --repair mends it"], 1) from None
    except OSError as error:
        raise Failure([f"{target} cannot be written: {error.strerror or error}"], 1) from None
    click.echo(f"{file}: {file.stat().st_size:,} bytes")
    tell_of_attachments(**place, coming=False)
