"""``tideline verify``: walks every timeline, reports what is damaged, and mends it where it is told to."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from broker.cli.logs import printable
from broker.cli.place import address, place_options
from broker.cli.settings import CANNOT_START, Failure
from storage.errors import StorageError
from storage.factory import open_verifier
from storage.verify import Finding


@click.command(short_help="Look for damage in the data, and mend it.")
@click.option("--repair", is_flag=True, help="Mend what can be mended; no broker serves the data then.")
@place_options
def verify(repair: bool, **place: Any) -> None:
    """Walk every timeline: gaps, pointers to nothing, offsets past the end, indexes that differ from their tables.

    It looks at the data beside a broker that runs. Exit code 1 says that there is damage that was not mended.
    """
    try:
        verifier = open_verifier(address(**place))
        found = asyncio.run(verifier.repair(_report) if repair else verifier.check(_report))
    except StorageError as error:
        raise Failure([" ".join(str(error).split())], CANNOT_START) from None
    _report("")
    for finding in found:
        _tell(finding, repaired=repair)
    if not found:
        click.echo("no damage was found")
    elif not repair or any(not finding.mended for finding in found):
        raise click.exceptions.Exit(1)


def _report(what: str) -> None:
    """What is looked at now, on a terminal; empty: nothing any more."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{f'looking at {what}' if what else ''}"[:100], nl=False, err=True)


def _tell(finding: Finding, *, repaired: bool) -> None:
    click.echo(f"{finding.what}: {finding.number:,}")
    for place in finding.places:
        click.echo(f"  {printable(place)}")
    if finding.number > len(finding.places):
        click.echo(f"  and {finding.number - len(finding.places):,} more")
    if not finding.mended:
        click.echo("  this cannot be mended")
    else:
        click.echo(f"  mended: {finding.mended}" if repaired else f"  --repair: {finding.mended}")
