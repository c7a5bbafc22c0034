"""Where the data of a command is: the configured storage, the one in a directory, or a URL's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from broker.cli.settings import Failure, place_option, read_settings, settings_options

F = TypeVar("F", bound=Callable[..., Any])


def place_options(command: F) -> F:
    """``--config``, ``--data`` and ``--url``, of which `address` makes a storage URL."""
    url = place_option("-u", "--url", help="Storage URL, such as sqlite:///data/tideline.db or mongodb://host/database.")
    return settings_options(url(command))


def address(config: Path | None, data: Path | None, url: str | None) -> str:
    """The storage URL that is meant. Raises `Failure` where none is, or two are."""
    if url is not None and data is not None:
        raise Failure(["--data and --url both say where the messages are; give one of them"], 2)
    if url is not None:
        return url
    if data is not None:
        return f"sqlite:///{data}/tideline.db"
    settings = read_settings(config)
    if not settings.storage_url:
        raise Failure(["the configuration leaves storage to another plugin; give --data or --url"], 2)
    return settings.storage_url


def tell_of_attachments(config: Path | None, data: Path | None, url: str | None, *, coming: bool) -> None:
    """Say where the bytes of attachments are, which no copy of the database has. With a URL it is not known.

    ``coming``: the database comes from a copy. Else a copy was made of it.
    """
    options = None if url is not None else read_settings(config, data).plugins.get("attachments")
    if options is None:
        return
    beside = Path(address(config, data, url).removeprefix("sqlite://").removeprefix("/")).parent / "attachments"
    folder = options.get("directory") or beside
    where = "their bucket" if options.get("s3") else folder
    told = (
        "have those that belong to this data there before the broker starts, and keep a copy of others"
        if coming
        else "copy that as well, now that this is done"
    )
    click.echo(f"what was uploaded (attachments) is not in it, but in {where}: {told}", err=True)


def forget_index(config: Path | None, data: Path | None, url: str | None) -> None:
    """Remove an embedded search index of the data that was there: the broker makes another one when it starts.

    With a URL it is not known where that is. Raises `Failure` where it cannot be removed.
    """
    options = None if url is not None else read_settings(config, data).plugins.get("search")
    if url is None and options is None:
        return
    if options is None or str(options.get("engine", "embedded")) == "meilisearch":
        click.echo("the search index is of the data that was there: run tideline reindex")
        return
    path = Path(str(options.get("path", "data/search.db")))
    try:
        if (folder := path.with_suffix(".tantivy")).is_dir():  # which may be the path itself
            shutil.rmtree(folder)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        problem = f"the data is in place, but {path}, the search index of what was there, cannot be removed: {error.strerror}"
        raise Failure([problem, "remove it, or run tideline reindex, as a user who may"], 1) from None
