"""The index on tantivy as folders, and what writes to them. Runs in the engine's writer thread.

``<folder>/<g>/`` is a *generation*: an index of tantivy's, and ``tideline.json`` with the positions and what made it. The file
``<folder>/live`` names the one that is searched, so that a rebuild fills the next one beside it and a swap is one rename. The
positions are written after the commit that they tell of: what a crash lets come again is not added again.

A message has its tokens, of which only the inverted index is kept, and: ``key``, by which it is in the order of time; ``id``,
``seq`` and ``size`` (its tokens) as columns; its topic and sender, to look for and to tell; its device, to tell.

tantivy forgets a message by a mark, and its words with it only when the segment that has them is merged. It does that when it
likes, which for a large segment is never, and its Python package has no way to ask for it. So what is left of a segment that a
message was deleted from is taken out of it and added again, from the texts of the store, until it is empty (`Generation.due`).
What retention removed (`Generation.forget`) has no such hurry, until it is recalled too. A segment may have words of one that
is not in it any more, or was added again elsewhere: a deletion looks for those too (`Generation._worn`).

Over 300 lines: all that writes to these folders.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import tantivy
from tantivy import Query

from plugins.search.engine import Document, Positions
from plugins.search.tantivy_match import all_of
from plugins.search.text import TOKENISER, joined
from storage.private import make_folder

log = logging.getLogger("tideline.search")

LAYOUT = 1
_HEAP = 32_000_000
"""Bytes of a page that are gathered before a segment is made of them; a page has less."""
_LOW_BITS = 21
_LATEST = (1 << 43) - 1
_ALL = (1 << 64) - 1
_SPANS = 1000
_LOOKED_AT = 4000
_REWRITTEN = 2000
"""Messages that one step of a purge adds again."""
_AT_ONCE = 200

_UNSIGNED = tantivy.FieldType.Unsigned


def made_by() -> int:
    """The versions of the fields and of the tokeniser, as one number."""
    return LAYOUT * 1000 + TOKENISER


def key_of(id: int, time: int) -> int:
    """Where a message is in the order of time. Some of one millisecond may have the same: then their ids tell."""
    return min(max(0, time), _LATEST) << _LOW_BITS | id & (1 << _LOW_BITS) - 1


def first_key(time: int) -> int:
    """The lowest key of a time."""
    return min(time, _LATEST) << _LOW_BITS


def time_of_key(key: int) -> int:
    """The time of a message, by its key."""
    return key >> _LOW_BITS


def halves(key: int) -> tuple[int, int]:
    """A key as two numbers that a cursor has room for."""
    return key >> _LOW_BITS, key & (1 << _LOW_BITS) - 1


def whole(high: int, low: int) -> int:
    """The key again."""
    return high << _LOW_BITS | low


def between(schema: tantivy.Schema, field: str, low: int, high: int) -> Query:
    """Messages of which a column is in a range, both ends included."""
    return Query.range_query(schema, field, _UNSIGNED, low, high)


def opened(folder: Path) -> tantivy.Index:
    """The index of a generation; made where there is none."""
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("body", index_option="position", tokenizer_name="tokens")
    builder.add_text_field("topic", stored=True, index_option="basic", tokenizer_name="raw")
    builder.add_text_field("sender", stored=True, index_option="basic", tokenizer_name="raw")
    builder.add_bytes_field("device", stored=True)
    for column in ("key", "id", "seq", "size"):
        builder.add_unsigned_field(column, fast=True)
    return _ready(tantivy.Index(builder.build(), path=str(folder)))


def there(folder: Path) -> tantivy.Index:
    """The index of a generation, for who only reads. Raises ValueError where there is none."""
    return _ready(tantivy.Index.open(str(folder)))


def _ready(index: tantivy.Index) -> tantivy.Index:
    index.register_tokenizer("tokens", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build())
    index.config_reader("manual")
    return index


def live_generation(folder: Path) -> int:
    """The generation that is searched; 0 where there is none."""
    try:
        return int((folder / "live").read_text())
    except (FileNotFoundError, ValueError):
        return 0


def make_live(folder: Path, number: int) -> None:
    """Have a generation be the one that is searched, whatever crashes: the old one or this one."""
    _replace(folder / "live", str(number))


def new_generation(folder: Path) -> int:
    """Make a generation that is newer than any; its number."""
    number = 1 + max([live_generation(folder), *_numbers(folder)])
    make_folder(folder / str(number))
    _replace(folder / str(number) / "tideline.json", json.dumps({"maker": made_by(), "positions": {}}))
    return number


def drop_others(folder: Path, live: int) -> None:
    """Remove every generation but the live one."""
    for number in _numbers(folder):
        if number != live:
            shutil.rmtree(folder / str(number))


def _numbers(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir() if path.name.isdigit()]


def _replace(path: Path, content: str, *, durable: bool = False) -> None:
    """Write a file as one. What a power cut takes of it is read as nothing, and then all of the store is read again; of what is
    ``durable`` it takes nothing."""
    other = path.with_name(path.name + ".new")
    with other.open("w") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    os.replace(other, path)
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Generation:
    """Writes to one generation. A method is one commit. A writer that failed is thrown away, and what it had not committed."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self._folder = folder / str(number)
        self._index = opened(self._folder)
        self._schema = self._index.schema
        self._writer: tantivy.IndexWriter | None = None
        self._from = 0
        """The id from which on a purge looks."""
        try:
            state = json.loads((self._folder / "tideline.json").read_text())
        except (FileNotFoundError, ValueError):
            state = {}
        self.maker = int(state.get("maker", 0))
        self._positions = {int(number): int(id) for number, id in state.get("positions", {}).items()}
        self._due: set[str] = set(state.get("due", ()))
        """Segments that messages were deleted from. What they are merged into has nothing of those."""
        self._spans: dict[str, tuple[int, int]] = {}
        """What `_span` found, by segment."""

    @property
    def stale(self) -> bool:
        """Whether another tokeniser, or fields of an earlier layout, made it."""
        return self.maker != made_by()

    def close(self) -> None:
        """Break off what is merged, and let go of the files."""
        self._writer = None

    def positions(self) -> Positions:
        """The positions that were written last."""
        return dict(self._positions)

    def index(self, batch: Sequence[Document], positions: Positions) -> None:
        """Add messages, then set the positions."""
        there = self._there(self._searcher(), [document.id for document in batch])
        new = {document.id: document for document in batch if document.id not in there}
        if new:
            with _Commit(self) as writer:
                for document in new.values():
                    writer.add_document(_kept(document))
        if positions != self._positions:
            self._positions = dict(positions)
            self._keep()

    def delete(self, ids: Collection[int]) -> None:
        """Remove messages by id. What the files still have of them is for `due` and `rewrite`."""
        if not ids or not (self._there(self._searcher(), ids) or any(segment.get("deletes") for segment in self._listed())):
            return
        writer, self._writer = self.writer, None
        writer.wait_merging_threads()  # or what is merged meanwhile would have them still
        searcher, segments = self._look()
        there = self._there(searcher, ids)
        self._due |= {segments[address.segment_ord]["segment_id"] for address in there.values()}
        self._due |= self._worn(searcher, segments, ids)
        if self._due:
            self._keep(durable=True)  # or a power cut behind the commit would leave the words, and nobody who looks for them
        if there:
            with _Commit(self) as writer:
                for some in _some(sorted(there)):
                    writer.delete_documents_by_query(self._each(some))

    def forget(self, topic: str, before_seq: int) -> bool:
        """Remove a conversation's messages with seq < ``before_seq``: all there are."""
        if before_seq <= 0:
            return False
        old = all_of(Query.term_query(self._schema, "topic", topic), between(self._schema, "seq", 0, before_seq - 1))
        if self._searcher().search(old, 1).hits:
            with _Commit(self) as writer:
                writer.delete_documents_by_query(old)
        return False

    def due(self) -> list[int]:
        """Ids of the next messages, in order, that are in a segment with words of deleted ones; all there are between the first
        and the last. None where no file has any such word any more."""
        if not self._due:
            return []
        passes = 0
        while passes < 2:
            searcher, segments = self._look()
            marked = {at for at, segment in enumerate(segments) if segment["segment_id"] in self._due}
            if not marked:
                self.writer.garbage_collect_files()
                self._due.clear()
                self._keep()
                return []
            spans = [self._span(searcher, at, segments[at]) for at in marked]
            first_id, last_id = min(low for low, _ in spans), max(high for _, high in spans)
            if self._from > last_id:
                self._from, passes = 0, passes + 1
                continue
            behind = between(self._schema, "id", max(self._from, first_id), last_id)
            hits = searcher.search(behind, _LOOKED_AT, order_by_field="id", order=tantivy.Order.Asc).hits
            first = next((at for at, (_, address) in enumerate(hits) if address.segment_ord in marked), len(hits))
            some = hits[first : first + _REWRITTEN]
            while some and some[-1][1].segment_ord not in marked:
                some.pop()
            if some:
                return [id for id, _ in some]
            self._from = 1 + (hits[-1][0] if hits else last_id)
        log.error("segments of the search index that have nothing but deleted messages do not go away: %s", self._folder)
        return []

    def rewrite(self, ids: Sequence[int], documents: Sequence[Document]) -> None:
        """Take out what `due` told, or the first of it, and add again what is left of that."""
        with _Commit(self) as writer:
            writer.delete_documents_by_query(between(self._schema, "id", ids[0], ids[-1]))
            wanted = frozenset(ids)
            for document in documents:
                if document.id in wanted:
                    writer.add_document(_kept(document))
        self._from = ids[-1] + 1

    @property
    def writer(self) -> tantivy.IndexWriter:
        """The writer, which one that failed leaves to another."""
        if self._writer is None:
            self._writer = self._index.writer(_HEAP, 1)
        return self._writer

    def broken(self) -> None:
        """Throw away the writer, and what it had not committed. It has a lock, and is to let go of that now, not when the last
        one has gone who looks at the error, and so at who used it."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.wait_merging_threads()
            except ValueError as error:  # it is given up with what it was at; the first error is told
                log.debug("a writer of the search index ended badly: %s", error)

    def _keep(self, *, durable: bool = False) -> None:
        state = {"maker": self.maker, "positions": self._positions, "due": sorted(self._due)}
        _replace(self._folder / "tideline.json", json.dumps(state), durable=durable)

    def _searcher(self) -> tantivy.Searcher:
        self._index.reload()
        return self._index.searcher()

    def _there(self, searcher: tantivy.Searcher, ids: Collection[int]) -> dict[int, tantivy.DocAddress]:
        """Those of the messages that are there, and where."""
        wanted = set(ids)
        found: dict[int, tantivy.DocAddress] = {}
        around = between(self._schema, "id", min(wanted, default=0), max(wanted, default=0))
        first: Any = searcher.search(around, 1)  # its type says nothing of its count
        count = int(first.count)
        if not count:
            return found
        queries = [around] if count <= _AT_ONCE + 4 * len(wanted) else [self._each(some) for some in _some(sorted(wanted))]
        for query in queries:
            addresses = [address for _, address in searcher.search(query, count).hits]
            placed = zip(_column(searcher, "id", addresses), addresses, strict=True)
            found.update((id, address) for id, address in placed if id in wanted)
        return found

    def _each(self, ids: Sequence[int]) -> Query:
        return Query.boolean_query([(tantivy.Occur.Should, between(self._schema, "id", id, id)) for id in ids])

    def _look(self) -> tuple[tantivy.Searcher, list[dict[str, Any]]]:
        """What is there, and its segments in the order in which it numbers them, which is that of tantivy's own list."""
        while True:
            before = self._listed()
            searcher = self._searcher()
            if before == self._listed():  # else something was merged in between
                return searcher, before

    def _listed(self) -> list[dict[str, Any]]:
        """tantivy's own list of segments. One has ``deletes`` where a message is no longer in it whose words are."""
        return list(json.loads((self._folder / "meta.json").read_text())["segments"])

    def _worn(self, searcher: tantivy.Searcher, segments: Sequence[dict[str, Any]], ids: Collection[int]) -> set[str]:
        """Segments with words of messages that are not in them any more: forgotten, or added again elsewhere."""
        wanted, worn = frozenset(ids), set()
        for at, segment in enumerate(segments):
            if not segment.get("deletes") or segment["segment_id"] in self._due:
                continue
            first, last = self._span(searcher, at, segment)
            near = any(first <= id <= last for id in wanted)
            if near and not all(wanted.isdisjoint(some) for some in self._ever(searcher, at, segment)):
                worn.add(segment["segment_id"])
        return worn

    def _span(self, searcher: tantivy.Searcher, at: int, segment: dict[str, Any]) -> tuple[int, int]:
        """The lowest and the highest id of those that are or were in a segment."""
        found = self._spans.get(segment["segment_id"])
        if found is None:
            low, high = _ALL, 0
            for some in self._ever(searcher, at, segment):
                low, high = min(low, *some), max(high, *some)
            if len(self._spans) >= _SPANS:
                self._spans.clear()
            found = self._spans[segment["segment_id"]] = low, high
        return found

    def _ever(self, searcher: tantivy.Searcher, at: int, segment: dict[str, Any]) -> Iterator[list[int]]:
        """The ids of all that are or were in a segment, some thousands at a time: a column has them until it is merged."""
        for start in range(0, segment["max_doc"], _LOOKED_AT):
            end = min(start + _LOOKED_AT, segment["max_doc"])
            yield _column(searcher, "id", [tantivy.DocAddress(at, place) for place in range(start, end)])


def _column(searcher: tantivy.Searcher, field: str, addresses: list[tantivy.DocAddress]) -> list[int]:
    return cast("list[int]", searcher.fast_field_values(field, addresses))


def _some(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for at in range(0, len(ids), _AT_ONCE):
        yield ids[at : at + _AT_ONCE]


def _kept(document: Document) -> tantivy.Document:
    body = joined(document.text)
    kept = tantivy.Document()
    kept.add_text("body", body)
    kept.add_text("topic", document.topic)
    kept.add_text("sender", document.sender)
    kept.add_bytes("device", document.device.encode())
    kept.add_unsigned("key", key_of(document.id, document.time))
    kept.add_unsigned("id", document.id)
    kept.add_unsigned("seq", document.seq)
    kept.add_unsigned("size", body.count(" ") + 1 if body else 0)
    return kept


class _Commit:
    """What is done within is committed as one, or not at all."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __enter__(self) -> tantivy.IndexWriter:
        return self._generation.writer

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                self._generation.writer.commit()
                return
        except BaseException:
            self._generation.broken()
            raise
        self._generation.broken()
