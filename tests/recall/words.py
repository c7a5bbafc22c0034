"""A word for each place where a user can leave something, and the ways in which it could be found in files and documents."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import bson
from pymongo import MongoClient

IN_ROOM = (
    *("payload", "property", "content-type", "correlation", "retained", "edited", "edit", "reaction", "by-mqtt", "once"),
    *("attached", "attached-name", "loose", "loose-name", "unfinished", "unfinished-name"),
    *("scheduled", "scheduled-property", "scheduled-again", "scheduled-once"),
)
"""Where Ann's words are in the conversation that is erased with her, or alone."""
ELSEWHERE = (
    *("other", "stored-only", "channel", "unstored-retained", "draft", "draft-key", "draft-by-mqtt", "token-label"),
    *("will", "will-property", "filter", "hash"),
)
"""Where else. ``hash`` is what is kept of her password."""
OF_ROOM = ("name", "bob-says", "bob-retains", "bob-edits", "bob-reacts", "bob-attaches", "bob-attaches-name", "bob-schedules")
"""What goes with the conversation alone."""

_CONTENT = ("value", "payload", "properties", "will")


def word(place: str) -> str:
    """Letters alone, of which no two begin alike: an index keeps it nearly whole."""
    return "".join(chr(ord("a") + byte % 26) for byte in hashlib.sha256(place.encode()).digest()[:20])


def forms(place: str) -> Iterator[bytes]:
    """As it is, in UTF-16, in hexadecimal, and in base64 wherever it begins."""
    text = word(place)[4:]  # an index may leave out what it has in common with the word before
    plain = text.encode()
    yield from (plain, text.encode("utf-16-le"), text.encode("utf-16-be"), plain.hex().encode(), plain.hex().upper().encode())
    for start in range(3):
        whole = (len(plain) - start) // 3 * 3
        yield base64.b64encode(plain[start : start + whole])


class Look:
    """Which of some words are where."""

    def __init__(self, places: Iterable[str]) -> None:
        self._forms = {place: list(forms(place)) for place in places}

    def files(self, folder: Path) -> list[str]:
        """In any file below a folder, whatever it is called, or in its name."""
        found = []
        for path in folder.rglob("*"):
            try:
                content = path.read_bytes() if path.is_file() else b""
            except FileNotFoundError:  # it is removed now
                continue
            found += self._in(str(path.relative_to(folder)), content + str(path).encode())
        return found

    def database(self, url: str) -> list[str]:
        """In any document of a MongoDB database, with its names and all. What is marked as gone keeps its name for a day, and
        no content (docs/mongodb.md)."""
        with MongoClient[Any](url) as client:
            database = client.get_default_database()
            found = []
            for name in database.list_collection_names():
                for document in database[name].find():
                    where = f"{name} {str(document['_id'])[:80]!r}"
                    gone = document.get("gone") == 1
                    found += self._in(where, bson.encode({k: v for k, v in document.items() if not gone or k in _CONTENT}))
        return found

    def _in(self, where: str, content: bytes) -> list[str]:
        return [f"{place} in {where}" for place, some in self._forms.items() if any(form in content for form in some)]
