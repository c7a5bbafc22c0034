"""A storage backend from its URL. A backend's driver is imported only when its URL is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import StorageUnusable
from storage.interface import Storage
from storage.sharding import Sharding
from storage.transfer import Backup, Source, Target
from storage.verify import Verifier

_MONGODB = ("mongodb", "mongodb+srv")


def open_url(url: str, *, read_only: bool = False, low_water_bytes: int = 64 << 20) -> Storage:
    """A backend for ``url``, not opened yet.

    ``memory://`` (bounded, nothing survives), ``sqlite:///path`` (``sqlite:////absolute/path``), ``mongodb://…/database``.
    ``low_water_bytes``: with less free space on its disk, sqlite takes no more messages until there is more again.
    Raises `StorageUnusable` for any other scheme, or where the backend's package is missing.
    """
    scheme = url.partition("://")[0]
    if scheme == "memory":
        from storage.memory import MemoryStorage

        return MemoryStorage()
    if scheme == "sqlite":
        from storage.sqlite import SqliteStorage

        return SqliteStorage(database_file(url), read_only=read_only, low_water_bytes=low_water_bytes)
    if scheme in _MONGODB:
        with _driver_of(scheme):
            from storage.mongo import MongoStorage
        return MongoStorage(url, read_only=read_only)
    raise StorageUnusable(f"{_scheme_of(url)}: it must be sqlite://, mongodb:// or memory://")


def serving_process(url: str) -> str:
    """The process that serves the file of a URL, or "unknown"; empty for none, and where no file is served by one alone.

    Raises `OSError` where that cannot be seen.
    """
    if url.partition("://")[0] != "sqlite":
        return ""
    from storage.sqlite.serving_lock import served_by

    return served_by(Path(database_file(url)))


def open_sharding(url: str) -> Sharding:
    """What spreads the database of a ``mongodb://`` URL over shards. Raises `StorageUnusable` for any other URL."""
    scheme, _, _ = url.partition("://")
    if scheme not in _MONGODB:
        raise StorageUnusable(f"{_scheme_of(url)}: only the database of a mongodb:// url can be sharded")
    with _driver_of(scheme):
        from storage.mongo import Sharding
    return Sharding(url)


def open_source(url: str) -> Source:
    """What exports the database of a URL, not opened yet. Raises `StorageUnusable` as `open_url` does."""
    scheme = _lasting(url)
    if scheme == "sqlite":
        from storage.sqlite.dump import SqliteSource

        return SqliteSource(database_file(url))
    with _driver_of(scheme):
        from storage.mongo.dump import MongoSource
    return MongoSource(url)


def open_target(url: str, *, anew: bool = False, aside: Path | None = None) -> Target:
    """What imports into the database of a URL, not opened yet. ``anew``: see `storage.mongo.fill.MongoTarget`;
    ``aside``: `storage.sqlite.fill.SqliteTarget`."""
    scheme = _lasting(url)
    if scheme == "sqlite":
        from storage.sqlite.fill import SqliteTarget

        return SqliteTarget(database_file(url), aside)
    with _driver_of(scheme):
        from storage.mongo.fill import MongoTarget
    return MongoTarget(url, anew=anew)


def open_backup(url: str) -> Backup | None:
    """What copies the database of a URL as it is; None where that is no file, and an export serves."""
    if _lasting(url) != "sqlite":
        return None
    from storage.sqlite.backup import SqliteBackup

    return SqliteBackup(database_file(url))


def open_verifier(url: str) -> Verifier:
    """What looks for damage in the database of a URL. Raises `StorageUnusable` as `open_url` does."""
    scheme = _lasting(url)
    if scheme == "sqlite":
        from storage.sqlite.verify import SqliteVerifier

        return SqliteVerifier(database_file(url))
    with _driver_of(scheme):
        from storage.mongo.verify import MongoVerifier
    return MongoVerifier(url)


def _lasting(url: str) -> str:
    """A URL's scheme. Raises `StorageUnusable` where nothing outlives its broker there."""
    scheme = url.partition("://")[0]
    if scheme == "memory":
        raise StorageUnusable("memory:// keeps nothing that could be copied without its broker")
    if scheme != "sqlite" and scheme not in _MONGODB:
        raise StorageUnusable(f"{_scheme_of(url)}: it must be sqlite:// or mongodb://")
    return scheme


def database_file(url: str) -> str:
    """The file of a ``sqlite:///`` URL. Raises `StorageUnusable` where it names none."""
    path = url.partition("://")[2].removeprefix("/")
    if not Path(path).name:
        raise StorageUnusable("the sqlite url names no file: sqlite:///data/tideline.db")
    return path


@contextmanager
def _driver_of(scheme: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise StorageUnusable(
            f"{scheme}:// needs more packages ({error}): pip install 'tideline[mongodb]', or '.[mongodb]' in the sources"
        ) from error


def _scheme_of(url: str) -> str:
    """What a URL begins with; the rest is not told, as it may hold a password."""
    scheme, separator, _ = url.partition("://")
    return f"the storage url's scheme is {scheme!r}" if separator else "the storage url has no scheme"
