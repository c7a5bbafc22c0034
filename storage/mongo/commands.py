"""The inserts of a group, as they go over the wire.

The driver's `insert_many` makes objects of each document, and keeps what it needs to send them again by itself: 1 us of about
4.5 for a document, measured. A command of ours is sent once: whoever gives one finds out by the keys what an attempt of unknown
outcome has done. Its documents are encoded already.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from storage.errors import StorageUnavailable
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Collection, Database


class Encoded(Mapping[str, Any]):
    """``count`` documents of together less than 16 MB that are encoded, one behind the other. The driver takes them for one, as
    it takes a `RawBSONDocument`, and sends their bytes as they are. To whoever else looks, such as its log, it is empty."""

    __slots__ = ("count", "raw")
    _type_marker = RawBSONDocument._type_marker

    def __init__(self, raw: bytes, count: int) -> None:
        self.raw = raw
        self.count = count

    def __getitem__(self, name: str) -> Any:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


async def insert_command(collection: Collection, documents: Encoded, *, ordered: bool) -> list[Mapping[str, Any]]:
    """Insert; the errors, each with its ``index`` and ``code``. What has no error, and stands before the first one where it is
    ``ordered``, is as durable as the collection's write concern says. Raises `StorageUnavailable` where that is not known."""
    command = {"insert": collection.name, "documents": [documents], "ordered": ordered}
    with storage_errors():
        answer = await collection.database.command({**command, "writeConcern": collection.write_concern.document})
    _refuse_unconfirmed(answer)
    return list(answer.get("writeErrors", ()))


BULK_WRITE = 25
"""The wire version of MongoDB 8.0, the first with the command that writes to several collections."""


class NotTaken(StorageUnavailable):
    """The server does not take the command."""


async def insert_in_turn(admin: Database, one: Collection, other: Collection, inserts: Encoded) -> tuple[int, int]:
    """Insert into one collection, and then into another, in order up to the first error, by one command: (how many of all are
    durable, the code of the error at the next one, or 0). Raises `NotTaken`, or `StorageUnavailable` where that is not known.
    ``admin``: the database that is told such a command. ``inserts``: see `storage.mongo.encoding.encode_in_turn`.
    """
    command = {
        "bulkWrite": 1,
        "ops": [inserts],
        "nsInfo": [{"ns": one.full_name}, {"ns": other.full_name}],
        "ordered": True,
        "errorsOnly": True,
        "writeConcern": one.write_concern.document,
    }
    with storage_errors():
        try:
            answer = await admin.command(command)
        except OperationFailure as error:
            raise NotTaken(f"mongodb did not take bulkWrite (code {error.code}), and is asked no more for it") from error
    _refuse_unconfirmed(answer)
    if not answer["nErrors"]:
        return inserts.count, 0
    first = answer["cursor"]["firstBatch"][0]
    return first["idx"], first["code"] or -1


def _refuse_unconfirmed(answer: Mapping[str, Any]) -> None:
    if "writeConcernError" in answer:
        raise StorageUnavailable(f"mongodb: {str(answer['writeConcernError'].get('errmsg'))[:300]}")
