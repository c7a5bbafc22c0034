"""The inserts of a group, as they go over the wire.

The driver's `insert_many` makes objects of each document, and keeps what it needs to send them again by itself: 1 us of about
4.5 for a document, measured. A command of ours is encoded at once, in C, and is sent once: whoever gives one finds out by the
keys what an attempt of unknown outcome has done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pymongo.errors import OperationFailure

from storage.errors import StorageUnavailable
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Collection, Raw


async def insert_command(collection: Collection, documents: Sequence[Raw], *, ordered: bool) -> list[Mapping[str, Any]]:
    """Insert up to `storage.mongo.writes.CHUNK` documents of together less than 48 MB; the errors, each with its ``index`` and
    ``code``. What has no error, and stands before the first one where it is ``ordered``, is as durable as the collection's
    write concern says. Raises `StorageUnavailable` where that is not known."""
    command = {"insert": collection.name, "documents": documents, "ordered": ordered}
    with storage_errors():
        answer = await collection.database.command({**command, "writeConcern": collection.write_concern.document})
    _refuse_unconfirmed(answer)
    return list(answer.get("writeErrors", ()))


BULK_WRITE = 25
"""The wire version of MongoDB 8.0, the first with the command that writes to several collections."""


class NotTaken(StorageUnavailable):
    """The server does not take the command."""


async def insert_in_turn(
    one: Collection, documents: Sequence[Raw], other: Collection, entries: Sequence[Raw]
) -> tuple[int, int]:
    """Insert into one collection, and then into another, in order up to the first error, by one command: (how many of all are
    durable, the code of the error at the next one, or 0). Raises `NotTaken`, or `StorageUnavailable` where that is not known.
    """
    ops = [{"insert": 0, "document": document} for document in documents]
    ops += [{"insert": 1, "document": entry} for entry in entries]
    command = {
        "bulkWrite": 1,
        "ops": ops,
        "nsInfo": [{"ns": one.full_name}, {"ns": other.full_name}],
        "ordered": True,
        "errorsOnly": True,
        "writeConcern": one.write_concern.document,
    }
    with storage_errors():
        try:
            answer = await one.database.client.admin.command(command)
        except OperationFailure as error:
            raise NotTaken(f"mongodb did not take bulkWrite (code {error.code}), and is asked no more for it") from error
    _refuse_unconfirmed(answer)
    if not answer["nErrors"]:
        return len(ops), 0
    first = answer["cursor"]["firstBatch"][0]
    return first["idx"], first["code"] or -1


def _refuse_unconfirmed(answer: Mapping[str, Any]) -> None:
    if "writeConcernError" in answer:
        raise StorageUnavailable(f"mongodb: {str(answer['writeConcernError'].get('errmsg'))[:300]}")
