"""What a message of the store's tail says of earlier ones: those are to leave the index. No I/O.

The name and the id are found in the properties as they are on the wire, which the process that indexes need not decode.
"""

from __future__ import annotations

import re

from storage.records import Message

_NAMED = re.compile(rb"\x26\x00\x10tideline-recalls\x00\x10([0-9a-f]{16})")


def recalled_by(message: Message) -> list[int]:
    """The ids of those that a message says to recall. Whether they were recalled is for the store to say."""
    return [int(found, 16) for found in _NAMED.findall(message.properties)]
