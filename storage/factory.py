"""A storage backend from its URL. A backend's driver is imported only when its URL is used."""

from __future__ import annotations

from storage.errors import StorageUnusable
from storage.interface import Storage


def open_url(url: str, *, read_only: bool = False, low_water_bytes: int = 64 << 20) -> Storage:
    """A backend for ``url``, not opened yet.

    ``memory://`` (bounded, nothing survives), ``sqlite:///path`` (``sqlite:////absolute/path``), ``mongodb://…/database``.
    ``low_water_bytes``: with less free space on its disk, sqlite takes no more messages until there is more again.
    Raises `StorageUnusable` for any other scheme, or where the backend's package is missing.
    """
    scheme, separator, rest = url.partition("://")
    if scheme == "memory":
        from storage.memory import MemoryStorage

        return MemoryStorage()
    if scheme == "sqlite":
        if not rest.removeprefix("/"):
            raise StorageUnusable("the sqlite url names no file: sqlite:///data/tideline.db")
        from storage.sqlite import SqliteStorage

        return SqliteStorage(rest.removeprefix("/"), read_only=read_only, low_water_bytes=low_water_bytes)
    if scheme in ("mongodb", "mongodb+srv"):
        try:
            from storage.mongo import MongoStorage
        except ImportError as error:
            raise StorageUnusable(
                f"{scheme}:// needs more packages ({error}): pip install 'tideline[mongodb]', or '.[mongodb]' in the sources"
            ) from error
        return MongoStorage(url, read_only=read_only)
    given = f"the storage url's scheme is {scheme!r}" if separator else "the storage url has no scheme"
    # The rest is not told: it may hold a password.
    raise StorageUnusable(f"{given}: it must be sqlite://, mongodb:// or memory://")
