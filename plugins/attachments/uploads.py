"""Taking an upload: what is due is written piece by piece, and an offset is told once everything before it is durable.

- A record is stored where its row is still the one that was read. So of two requests that write at once, on any nodes, one
  wins, and the other is told 409; its pieces are nobody's, and are removed.
- What came before a connection broke is kept, but for a request with a checksum, which counts as a whole or not at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, TypeVar
from weakref import WeakValueDictionary

from amqtt.contexts import Action

from broker.amqtt import Services, Undecided
from broker.packets import reserved, shown
from plugins.attachments.config import Config
from plugins.attachments.pieces import Pieces, PiecesAway
from plugins.attachments.record import MOST_PIECES, PIECE, SMALL, Record, is_id, new_id
from plugins.attachments.records import Records
from plugins.attachments.removal import remove
from plugins.attachments.tus import Checksum
from plugins.attachments.writing import Writing, patient
from plugins.timelines import Who
from plugins.timelines.errors import Away, Conflict, Forbidden, NotFound, Problem, TooLarge, TooMany, Unprocessable
from plugins.timelines.publishing import check_name
from storage.errors import StorageError
from storage.interface import HasDisk

log = logging.getLogger("tideline.attachments")

T = TypeVar("T")

_LONGEST_NAME = 255


class Wanted(NamedTuple):
    """What an upload is to be."""

    topic: str
    length: int
    name: str = ""
    type: str = ""


class Uploads:
    """Takes them."""

    def __init__(self, server: Services, config: Config, records: Records, pieces: Pieces) -> None:
        self._server = server
        self._config = config
        self._records = records
        self._pieces = pieces
        self._creating: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By user: who creates one, so that two together are not beyond the quota."""
        self._writing: set[str] = set()
        self._due: dict[str, float] = {}
        """When a user may go on, by the loop's clock."""
        self._at_once: Counter[str] = Counter()
        self.received = self.refused = self.completed = 0
        """Bytes, requests, attachments."""

    # --- creation ----------------------------------------------------------------------------------------------------

    async def create(self, who: Who, wanted: Wanted) -> Record:
        """A new upload, durable. Raises a `Problem`."""
        await self._check(who, wanted)
        lock = self._creating.setdefault(who.user, asyncio.Lock())
        async with lock:
            await self._check_quota(who, wanted.length)
            now = self._server.now()
            expires = now + int(self._config.seconds_kept * 1000)
            record = Record(new_id(), wanted.topic, who.user, wanted.length, now, expires, wanted.name, wanted.type)
            await self._save(record)
            return record

    async def _check(self, who: Who, wanted: Wanted) -> None:
        check_name(wanted.topic)
        if reserved(wanted.topic) or wanted.topic.startswith("$"):
            raise Forbidden(f"topic {wanted.topic[:80]!r} is reserved for the broker")
        for field, value in (("filename", wanted.name), ("filetype", wanted.type)):
            if len(value) > _LONGEST_NAME or not value.isprintable():
                raise Unprocessable(f"{field} {shown(value)}: must be up to {_LONGEST_NAME} characters that can be printed")
        if wanted.length > self._config.largest:
            raise TooLarge(f"Upload-Length {wanted.length}: at most {self._config.largest} bytes are taken")
        if who.asked is not None and not await self._server.access.allowed(who.asked, Action.PUBLISH, wanted.topic):
            raise Forbidden(f"publishing to {wanted.topic[:80]!r} is not allowed")

    async def _check_quota(self, who: Who, length: int) -> None:
        has, config = await self._records.of_user(who.user, self._config.max_files), self._config
        if has.files >= config.max_files:
            raise TooLarge(f"you have {has.files} attachments; at most {config.max_files} are kept of one user")
        if has.unfinished >= config.max_unfinished:
            raise TooMany(f"{has.unfinished} uploads are not complete: finish or delete one first", retry_after=60)
        if has.bytes + length > config.bytes_of_user:
            raise TooLarge(f"you have {has.bytes} bytes of attachments; at most {config.bytes_of_user} are kept of one user")

    # --- what is there -------------------------------------------------------------------------------------------------

    async def own(self, who: Who, id: str) -> Record:
        """An attachment of the caller's own. Raises `NotFound`."""
        record = await self._records.find(id) if is_id(id) else None
        if record is None or (record.user != who.user and not who.operator) or self._expired(record):
            raise NotFound(f"attachment {id[:40]!r}: there is none, or it is not yours")
        return record

    def _expired(self, record: Record) -> bool:
        return not record.message and record.expires <= self._server.now()

    async def remove(self, record: Record) -> None:
        """Remove one that no message has. Raises `Conflict`."""
        if record.message:
            raise Conflict("a message has this attachment; it goes with the message")
        try:
            if not await remove(self._records, self._pieces, record):
                raise Conflict("the attachment has changed meanwhile")
        except PiecesAway as error:
            log.debug("the job attachments removes it later: %s", error)

    # --- bytes -----------------------------------------------------------------------------------------------------------

    async def take(
        self,
        record: Record,
        offset: int,
        body: AsyncIterator[bytes],
        size: int,
        checksum: Checksum | None,
        ending: asyncio.Event,
    ) -> Record:
        """Take what comes at an offset; the record behind it, durable. ``size`` is how much is to come, 0 where that is not
        known; ``ending``: the broker ends. Raises a `Problem`, and what ``body`` does: what came before is kept."""
        if offset != record.offset:
            self.refused += 1
            raise Conflict(f"Upload-Offset {offset}: the attachment is at {record.offset}")
        if offset + size > record.length:
            raise TooLarge(f"{size} bytes at {offset} are more than Upload-Length {record.length} says")
        with self._turn(record):
            writing = Writing(self, record.copy(), checksum, ending)
            try:
                async for data in patient(body):
                    await writing.add(data)
            except BaseException:
                with suppress(Problem, StorageError, Undecided):
                    await writing.broken()
                raise
            return await writing.end()

    @contextmanager
    def _turn(self, record: Record) -> Iterator[None]:
        if record.id in self._writing:
            raise Conflict("another request writes to this attachment")
        if len(self._writing) >= self._config.max_uploading:
            raise Away(f"{len(self._writing)} uploads are under way; try again later", retry_after=2)
        self._writing.add(record.id)
        self._at_once[record.user] += 1
        try:
            yield
        finally:
            self._writing.discard(record.id)
            self._at_once[record.user] -= 1
            if not self._at_once[record.user]:
                del self._at_once[record.user]
                self._due.pop(record.user, None)

    async def pace(self, user: str, size: int, ending: asyncio.Event) -> None:
        """Wait until a user may send more. Raises `Away` where the broker ends meanwhile."""
        rate = self._config.bytes_a_second
        if rate:
            now = asyncio.get_running_loop().time()
            due = max(now, self._due.get(user, 0.0)) + size / rate
            self._due[user] = due
            try:
                async with asyncio.timeout(due - now):
                    await ending.wait()
            except TimeoutError:
                return
            raise Away("the broker ends; what came is kept", retry_after=5)

    async def write(self, record: Record, data: bytes) -> None:
        """Add bytes to a record that is not stored yet: its last piece is written again where it is small."""
        await self._room()
        before = b""
        if record.pieces and record.pieces[-1][1] < SMALL:
            name, size = record.pieces[-1]
            before = await self._asked(self._pieces.get(name, 0, size))
            record.pieces.pop()
        elif len(record.pieces) >= MOST_PIECES:
            raise TooLarge(f"the upload came in {MOST_PIECES} pieces: send {PIECE >> 20} MiB or more in one request")
        name = record.next_piece()
        await self._asked(self._pieces.put(name, before + data))
        record.pieces.append((name, len(before) + len(data)))
        self.received += len(data)

    async def _room(self) -> None:
        """Leave the rest of the disk to the database. Raises `Away`."""
        storage = self._server.storage
        if self._config.s3 is None and isinstance(storage, HasDisk):
            space = await asyncio.to_thread(storage.space)
            if space is not None and space.low:
                raise Away("the disk is nearly full: what is left is for messages", retry_after=60)

    async def store(self, record: Record, stored: Record) -> None:
        """Make what was written count; remove what does not. Raises `Conflict` where somebody else was faster."""
        record.expires = self._server.now() + int(self._config.seconds_kept * 1000)
        try:
            await self._save(record)
        except Conflict:
            await self._forget(_only(record, stored))
            raise
        await self._forget(_only(stored, record))
        self.completed += record.complete

    async def give_up(self, record: Record, stored: Record) -> None:
        """Forget what was written and does not count."""
        await self._forget(_only(record, stored))

    async def _save(self, record: Record) -> None:
        if not await self._records.save(record):
            self.refused += 1
            raise Conflict("another request has written to this attachment")

    async def _forget(self, names: list[str]) -> None:
        if not names:
            return
        try:
            await self._pieces.drop(names)
        except PiecesAway as error:
            log.debug("pieces stay until the job attachments finds them: %s", error)

    @staticmethod
    async def _asked(answer: Awaitable[T]) -> T:
        try:
            return await answer
        except PiecesAway as error:
            log.warning("%s", error)
            raise Away("where attachments are kept does not take or give them now", retry_after=5) from error


def _only(one: Record, other: Record) -> list[str]:
    """Pieces that one has and the other has not."""
    known = {name for name, _ in other.pieces}
    return [name for name, _ in one.pieces if name not in known]
