"""PUBLISH frames: built once for all that a commit reaches, and kept by nothing that storage made."""

from __future__ import annotations

import pytest

from broker.delivery.frames import frame_parts
from broker.publication import Outgoing
from storage.records import Message


@pytest.mark.inside
def test_all_receivers_of_one_message_share_its_frames() -> None:
    message = Outgoing("a/b", "u/ann", "phone", 1, b"payload", retain=True)
    message.properties = b"\x26\0\x01a\0\x01b"
    shapes = [(flags, version5) for flags in range(6) for version5 in (False, True)]
    first = [frame_parts(message, *shape) for shape in shapes]
    assert len(set(first)) == len(shapes)
    assert all(frame_parts(message, *shape) is parts for shape, parts in zip(shapes, first, strict=True))


def test_a_message_from_storage_has_the_same_frames() -> None:
    sent = Outgoing("a/b", "u/ann", "phone", 1, b"payload")
    read = Message(7, "a/b", "u/ann", "phone", 1, 1, b"payload", seq=3)
    for flags in range(6):
        for version5 in (False, True):
            assert frame_parts(read, flags, version5) == frame_parts(sent, flags, version5)
