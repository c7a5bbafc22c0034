"""Writing inbox entries beside other writers.

An entry's key is (user, sequence). Where it is free, nobody has written to the inbox since its end was read, so an entry that
another writer gave the same message would be in its way. Where it is taken, the entries that follow in that inbox are not
written: they would come before it. So users with one entry each go in one wave in any order; those with several, in theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from storage.mongo.commands import Encoded
from storage.mongo.documents import Collection
from storage.mongo.encoding import Entry, encode_entries
from storage.mongo.writes import CHUNK, CHUNK_BYTES, insert_chunk

_AT_ONCE = 4
WORTH_PARTING = 512
"""More entries go in several commands, which a server can take side by side."""


async def write_entries(collection: Collection, entries: Sequence[Entry]) -> set[int]:
    """Insert; the places of those that are durable. Of one inbox those are the first ones."""
    if len({entry[0] for entry in entries}) == len(entries):
        return await _insert(collection, entries, range(len(entries)), ordered=False)
    if len(entries) <= WORTH_PARTING:
        return await _insert(collection, entries, range(len(entries)), ordered=True)
    by_user: dict[str, list[int]] = {}
    for place, entry in enumerate(entries):
        by_user.setdefault(entry[0], []).append(place)
    single = [places[0] for places in by_user.values() if len(places) == 1]
    waves: list[tuple[list[int], bool]] = [(single, False)] if single else []
    size = max(WORTH_PARTING, -(-(len(entries) - len(single)) // _AT_ONCE))
    wave: list[int] = []
    for places in by_user.values():
        if len(places) > 1:
            wave += places
        if len(wave) >= size:
            waves.append((wave, True))
            wave = []
    if wave:
        waves.append((wave, True))
    written: set[int] = set()
    for start in range(0, len(waves), _AT_ONCE):
        some = waves[start : start + _AT_ONCE]
        found = await asyncio.gather(
            *(_insert(collection, entries, places, ordered=ordered) for places, ordered in some), return_exceptions=True
        )
        for one in found:
            if isinstance(one, BaseException):
                raise one
            written |= one
    return written


async def _insert(collection: Collection, entries: Sequence[Entry], places: Sequence[int], *, ordered: bool) -> set[int]:
    written: set[int] = set()
    start = 0
    while start < len(places):
        documents = Encoded(*encode_entries([entries[place] for place in places[start : start + CHUNK]], CHUNK_BYTES))
        some = places[start : start + documents.count]
        found = await insert_chunk(collection, documents, ordered=ordered)
        written.update(some if len(found) == len(some) else (some[n] for n in found))
        if ordered and len(found) < len(some):
            break
        start += len(some)
    return written
