"""Removing an attachment, so that whatever step a kill comes in, what is left is found and removed later.

The record goes last: until then it has expired, so nobody is given it, no message gets it, and nothing is uploaded to it. An
erasure, and the job, remove such a one as any.
"""

from __future__ import annotations

from plugins.attachments.pieces import Pieces
from plugins.attachments.record import Record
from plugins.attachments.records import Records


async def remove(records: Records, pieces: Pieces, record: Record) -> bool:
    """Whether it was still the one that was read. Raises `PiecesAway`: it is to be removed later."""
    if not await records.expire(record):
        return False
    await pieces.clear(record.id)
    await records.drop(record)
    return True
