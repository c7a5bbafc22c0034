"""The connection: URL, client, and driver errors told as storage errors.

mongomotor's own `connect` is not used: it opens a second, synchronous client that blocks the loop while the server is away.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import unquote

import pymongo
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    DuplicateKeyError,
    InvalidName,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from storage.ending import end
from storage.errors import StorageUnavailable, StorageUnusable
from storage.mongo.documents import Bound, Collection, Raw, bind

DUPLICATE_KEY = 11000
_NOT_ALLOWED = {13, 18, 8000}  # Unauthorized, AuthenticationFailed, AtlasError
_LEASE = "tideline_lease_ms"
_DEFAULTS = {
    "serverSelectionTimeoutMS": 3_000,
    "connectTimeoutMS": 3_000,
    "socketTimeoutMS": 20_000,
    "waitQueueTimeoutMS": 20_000,
    "appname": "tideline",
}
_WTIMEOUT_MS = 10_000
_GOODBYE = 0.2
"""Seconds that a server has to answer when its client leaves; it forgets a session by itself after half an hour."""
_DATABASE = set('/\\. "$*<>:|?@\0')
"""What cannot be in a database's name."""


class Address(NamedTuple):
    """A ``mongodb://`` URL, taken apart. ``url`` is what the driver gets, ``options`` the defaults that it does not set."""

    url: str
    database: str
    lease_ms: int
    options: dict[str, Any]

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises `StorageUnusable` where the database is missing or none, or ``tideline_lease_ms`` is no number over 199."""
        base, _, query = url.partition("?")
        database = unquote(base.partition("://")[2].partition("/")[2])
        if not database:
            raise StorageUnusable("the mongodb url names no database: mongodb://host:27017/database")
        if not _DATABASE.isdisjoint(database):  # and it is not told: it may be the end of a password
            wrong = "".join(sorted(_DATABASE.intersection(database)))
            raise StorageUnusable(
                f"the database's name in the mongodb url has {wrong!r} in it: a password's / @ : ? are %2F %40 %3A %3F"
            )
        given = [pair.partition("=") for pair in query.split("&") if pair]
        lease = next((value for name, _, value in given if name == _LEASE), "10000")
        if not (lease.isascii() and lease.isdigit() and int(lease) >= 200):
            raise StorageUnusable(f"{_LEASE}={lease}: must be a number of milliseconds, at least 200")
        unknown = [name for name, _, _ in given if name.startswith("tideline_") and name != _LEASE]
        if unknown:
            raise StorageUnusable(f"{unknown[0]} in the mongodb url: the only option of ours is {_LEASE}")
        kept = "&".join("".join(pair) for pair in given if pair[0] != _LEASE)
        names = {name.lower() for name, _, _ in given}
        options = {name: value for name, value in _DEFAULTS.items() if name.lower() not in names}
        return cls(base + ("?" + kept if kept else ""), database, int(lease), options)


class Connection(NamedTuple):
    """One client, and a database's collections."""

    client: AsyncMongoClient[Raw]
    bound: Bound

    @classmethod
    def make(cls, address: Address) -> Connection:
        """A client of the running loop, which connects when it is first used; reads and writes are the majority's."""
        with storage_errors(opening=True):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", UserWarning)  # the driver only warns of an option that it does not know
                    client: AsyncMongoClient[Raw] = AsyncMongoClient(address.url, **address.options)
            except (ValueError, TypeError, UserWarning) as error:
                name = _wrong_option(address.url)
                raise ConfigurationError(f"option {name!r} in the url: {error}" if name else str(error)) from error
            database = client.get_database(
                address.database,
                read_preference=ReadPreference.PRIMARY,
                read_concern=ReadConcern("majority"),
                write_concern=WriteConcern(w="majority", j=True, wtimeout=_WTIMEOUT_MS),
            )
        return cls(client, bind(database))

    async def close(self) -> None:
        """Close the client."""
        with pymongo.timeout(_GOODBYE):  # it ends its sessions at the server, and waits for the answer
            closing = asyncio.create_task(self.client.close(), name="mongodb goodbye")
        done, _ = await asyncio.wait([closing], timeout=2 * _GOODBYE)
        await end([closing])  # it also waits, without a limit, for its own look at the server to end
        if done:
            closing.result()


def _wrong_option(url: str) -> str:
    """The option of a URL that the driver does not take, empty where it is none of them: its own words may not name it."""
    for pair in filter(None, url.partition("?")[2].split("&")):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                parse_uri(f"mongodb://host/?{pair}", warn=True)
        except (ValueError, TypeError, UserWarning, PyMongoError):
            return pair.partition("=")[0]
    return ""


@contextmanager
def storage_errors(*, opening: bool = False) -> Iterator[None]:
    """Turn the driver's errors into `StorageUnavailable`, or `StorageUnusable` where only a person can help.

    A task that is cancelled meanwhile ends, also where the driver makes an error of that, or takes its answer: whoever tries
    again when storage is away would otherwise do so for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except PyMongoError as error:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError from error
        if isinstance(error, ConfigurationError | InvalidURI | InvalidName):
            raise StorageUnusable(f"mongodb: {error}") from error
        if opening and isinstance(error, OperationFailure) and error.code in _NOT_ALLOWED:
            raise StorageUnusable(f"mongodb refused the user or its password: {_text(error)}") from error
        raise StorageUnavailable(f"mongodb: {_text(error)}") from error
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


def is_router(hello: Raw) -> bool:
    """Whether it is a mongos, which stands in front of a sharded cluster, that answered ``hello``."""
    return hello.get("msg") == "isdbgrid"


async def inserted(collection: Collection, document: Raw, *, opening: bool = False) -> bool:
    """Insert a document; False where its ``_id`` is taken. Raises as `storage_errors` does."""
    with storage_errors(opening=opening):
        try:
            await collection.insert_one(document)
        except DuplicateKeyError:
            return False
    return True


def _text(error: PyMongoError) -> str:
    if isinstance(error, BulkWriteError):
        details = [*error.details.get("writeErrors", []), *error.details.get("writeConcernErrors", [])]
        return "; ".join(str(one.get("errmsg")) for one in details[:3]) or "bulk write failed"
    text = str(error) or type(error).__name__
    if isinstance(error, ServerSelectionTimeoutError):
        text = text.partition(", Timeout:")[0]  # the rest is a description of the whole topology
    return text.partition(", full error:")[0][:300]
