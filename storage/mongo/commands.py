"""The inserts of a group, as they go over the wire.

The driver's `insert_many` makes objects of each document, and keeps what it needs to send them again by itself: 1 us of about
4.5 for a document, measured. A command of ours is sent once: whoever gives one finds out by the keys what an attempt of unknown
outcome has done. Its documents are encoded already.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from bson import CodecOptions, encode
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from storage.errors import StorageUnavailable
from storage.mongo.connection import storage_errors
from storage.mongo.documents import Collection, Database

logger = logging.getLogger(__name__)


class Encoded(Mapping[str, Any]):
    """``count`` documents of together less than 16 MB that are encoded, one behind the other. The driver takes them for one, as
    it takes a `RawBSONDocument`, and sends their bytes as they are. To whoever else looks, such as its log, it is empty."""

    __slots__ = ("count", "raw")
    _type_marker = getattr(RawBSONDocument, "_type_marker", None)  # the driver's own matter: see `_taken`

    def __init__(self, raw: bytes, count: int) -> None:
        self.raw = raw
        self.count = count

    def __getitem__(self, name: str) -> Any:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def documents(self) -> list[Mapping[str, Any]]:
        """What a command is given. Where the driver does not take many for one: each by itself, which it promises to take."""
        return [self] if _taken() else list(_each(self.raw))


@cache
def _taken() -> bool:
    """Whether this driver sends an `Encoded` as it is, which it promises nowhere: what it makes of one is looked at, once."""
    one, other = encode({"a": 1}), encode({"b": "text"})
    each: list[Mapping[str, Any]] = [RawBSONDocument(one), RawBSONDocument(other)]
    try:
        if all(
            _sent(*kind, [Encoded(one + other, 2)]) == _sent(*kind, each)
            for kind in (("insert", "documents"), ("bulkWrite", "ops"))
        ):
            return True
        why = "it makes other bytes of them than of each"
    except Exception as error:  # noqa: BLE001 - what a driver of later raises is not known
        why = f"{type(error).__name__}: {error}"
    logger.warning(
        "this version of pymongo does not take many encoded documents for one (%s): each is sent by itself, which takes longer",
        why,
    )
    return False


def _sent(name: str, field: str, documents: list[Mapping[str, Any]]) -> bytes:
    """What the driver would send, but for its head."""
    from pymongo.message import _op_msg  # here, as it is not said that there is one

    _, message, *_ = _op_msg(0, {name: "a", field: documents}, "b", None, CodecOptions())
    return message[16:]


def _each(raw: bytes) -> Iterator[RawBSONDocument]:
    at = 0
    while at < len(raw):
        end = at + int.from_bytes(raw[at : at + 4], "little")
        yield RawBSONDocument(raw[at:end])
        at = end


async def insert_command(collection: Collection, documents: Encoded, *, ordered: bool) -> list[Mapping[str, Any]]:
    """Insert; the errors, each with its ``index`` and ``code``. What has no error, and stands before the first one where it is
    ``ordered``, is as durable as the collection's write concern says. Raises `StorageUnavailable` where that is not known."""
    command = {"insert": collection.name, "documents": documents.documents(), "ordered": ordered}
    with storage_errors():
        answer = await collection.database.command({**command, "writeConcern": collection.write_concern.document})
    _refuse_unconfirmed(answer)
    if errors := list(answer.get("writeErrors", ())):
        return errors
    _refuse_other_number(answer["n"], documents)
    return []


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
        "ops": inserts.documents(),
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
        _refuse_other_number(answer["nInserted"], inserts)
        return inserts.count, 0
    first = answer["cursor"]["firstBatch"][0]
    return first["idx"], first["code"] or -1


def _refuse_unconfirmed(answer: Mapping[str, Any]) -> None:
    if "writeConcernError" in answer:
        raise StorageUnavailable(f"mongodb: {str(answer['writeConcernError'].get('errmsg'))[:300]}")


def _refuse_other_number(inserted: int, documents: Encoded) -> None:
    """A driver that took many documents for one, and that one for empty, would have stored nothing."""
    if inserted != documents.count:
        raise StorageUnavailable(f"mongodb inserted {inserted} documents where {documents.count} were given")
