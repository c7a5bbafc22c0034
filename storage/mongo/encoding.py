"""How messages of the store, and inbox entries, become BSON: fast where librt is as we know it, else by the driver's encoder.

librt is mypyc's own library. It calls itself alpha, and a compiled core wants the very interface that it was compiled for. What
the two make of the same is compared once, when this is imported.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from storage.mongo import plain_encoding
from storage.mongo.plain_encoding import Entry, Numbered, Rows
from storage.records import Append, DeviceKey, Message

__all__ = ["Entry", "Numbered", "Rows", "encode_entries", "encode_in_turn", "encode_messages", "message_size"]

logger = logging.getLogger(__name__)


class Encoding(Protocol):
    """What both modules have; `storage.mongo.plain_encoding` says what each promises."""

    def encode_messages(self, messages: Sequence[Numbered], version: int, rows: Rows, most: int, /) -> tuple[bytes, int]: ...
    def encode_entries(self, entries: Sequence[Entry], most: int, /) -> tuple[bytes, int]: ...
    def encode_in_turn(
        self, messages: Sequence[Numbered], entries: Sequence[Entry], version: int, rows: Rows, most: int, /
    ) -> tuple[bytes, int]: ...
    def message_size(self, numbered: Numbered, version: int, /) -> int: ...


def _sample(encoding: Encoding) -> tuple[bytes, int]:
    """One of each kind of field, with numbers and names that fill them."""
    op = Append(
        Message((1 << 52) + 5, "straße/€", "u/ä", "d", 1 << 41, 2, b"\0payload", True, 1 << 41, b"\x26"), ("u/b", "u/ö")
    )
    op.received = DeviceKey("u/ä", "d"), 65_535
    alone = Append(Message(7, "a", "u/a", "", 0, 0, b""), ("u/b",))
    messages: list[Numbered] = [(op, 1 << 40, 1 << 41, op.recipients, [1, 1 << 40]), (alone, 1, 2, alone.recipients, [3])]
    entries: list[Entry] = [("u/ö", 10**15, 1 << 62, 1 << 30, 1 << 41, "t", b"\0\1"), ("", 1, 2, 0, 3, "", b"")]
    return encoding.encode_in_turn(messages, entries, 1 << 42, {7: [["row", b"value"]]}, 1 << 20)


def _choose() -> Encoding:
    try:
        fast = cast(Encoding, import_module("storage.mongo.fast_encoding"))
        if _sample(fast) == _sample(plain_encoding):
            return fast
        why = "it makes other bytes than it should"
    except Exception as error:  # noqa: BLE001 - what a librt that is none of ours raises is not known
        why = f"{type(error).__name__}: {error}"
    logger.warning("librt cannot be used (%s): messages for mongodb are encoded without it, which takes longer", why)
    return plain_encoding


_chosen = _choose()
encode_messages = _chosen.encode_messages
encode_entries = _chosen.encode_entries
encode_in_turn = _chosen.encode_in_turn
message_size = _chosen.message_size
