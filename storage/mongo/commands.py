"""The inserts of a group, as they go over the wire.

The driver's `insert_many` makes objects of each document, and keeps what it needs to send them again by itself: 1 us of about
4.5 for a document, measured. A command of ours is encoded at once, in C, and is sent once: whoever gives one finds out by the
keys what an attempt of unknown outcome has done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
    if "writeConcernError" in answer:
        raise StorageUnavailable(f"mongodb: {str(answer['writeConcernError'].get('errmsg'))[:300]}")
    return list(answer.get("writeErrors", ()))
