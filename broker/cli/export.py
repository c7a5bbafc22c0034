"""``tideline export``: everything that is stored, into one file, beside the broker that serves it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click

from broker.cli.logs import printable
from broker.cli.place import address, place_options, tell_of_attachments
from broker.cli.progress import Progress
from broker.cli.settings import CANNOT_START, Failure, PathType
from storage.errors import StorageError
from storage.factory import open_source
from storage.transfer import ExportWriter, Sequences
from storage.verify import TOLD


@click.command(short_help="Write everything that is stored into a file.")
@click.argument("file", type=PathType(dir_okay=False, path_type=Path))
@place_options
def export(file: Path, **place: Any) -> None:
    """Write everything that is stored into FILE, which `tideline import` makes a database of, also of another kind.

    A broker that runs goes on meanwhile: the file has what was committed when this began. It is whole, or it is not there. Exit
    code 1 with a file says that some entries of inboxes are damaged, and that it has everything else.
    """
    if os.path.exists(file):  # where this user may not look, the writing says so
        raise Failure([f"{file} is there already: remove it, or name another file"], 1)
    try:
        counts, lost = asyncio.run(write_export(address(**place), file))
    except StorageError as error:
        raise Failure([" ".join(str(error).split())], CANNOT_START) from None
    except ValueError as error:
        raise Failure([f"{error}: {_DAMAGED}"], 1) from None
    except OSError as error:
        raise Failure([f"{file} cannot be written: {error.strerror or error}"], 1) from None
    click.echo(f"{file}: {said(counts)}")
    tell_of_attachments(**place, coming=False)
    if lost:
        shown = [*lost[:TOLD], *([f"and {len(lost) - TOLD:,} more"] if len(lost) > TOLD else [])]
        raise Failure([*(printable(line) for line in shown), f"{_DAMAGED}; {file} has everything else"], 1)


_DAMAGED = "the data is damaged; tideline verify says more, and --repair mends it"


async def write_export(url: str, file: Path) -> tuple[dict[str, int], list[str]]:
    """Export a database; how many records of each kind, and what of inboxes is lost. Raises `StorageError`, OSError, and
    ValueError for a gap."""
    async with open_source(url) as source:
        about = await source.about()
        sequences = Sequences()
        with ExportWriter(file, about) as writer, Progress("exporting", about.records) as progress:
            async for records in source.records():
                sequences.check(records)
                writer.write(records)
                progress.add(len(records))
            return writer.finish(), source.lost


def said(counts: dict[str, int]) -> str:
    """Counts of records, in words."""
    names = ("message", "conversation", "inbox", "device")
    plurals = {"inbox": "inboxes"}
    parts = [f"{counts.get(n, 0):,} {n if counts.get(n) == 1 else plurals.get(n, n + 's')}" for n in names]
    others = sum(count for name, count in counts.items() if name not in names)
    return ", ".join(parts) + f", and {others:,} other records"
