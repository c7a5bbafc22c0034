"""How far devices are behind that are not connected: it takes a look at each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol


class Behind(NamedTuple):
    """Inboxes of which a device has not acknowledged all; the entries that the last of each one's devices has not, all
    together, and those of the largest."""

    inboxes: int = 0
    entries: int = 0
    largest: int = 0


class Inboxes(Protocol):
    """What is asked of storage."""

    def inboxes(self) -> AsyncIterator[tuple[str, int, int]]: ...

    def lowest_offsets(self) -> AsyncIterator[list[tuple[str, int]]]: ...


async def behind(storage: Inboxes) -> Behind:
    """Walk over the inboxes and the lowest offset of each one's devices, both of which come by user key."""
    heads = storage.inboxes()
    user, head = b"", 0
    found = Behind()
    async for page in storage.lowest_offsets():
        for name, offset in page:
            wanted = name.encode(errors="surrogatepass")
            while user < wanted:
                try:
                    key, _, head = await anext(heads)
                except StopAsyncIteration:
                    return found
                user = key.encode(errors="surrogatepass")
            lag = head - offset if user == wanted else 0
            if lag > 0:
                found = Behind(found.inboxes + 1, found.entries + lag, max(found.largest, lag))
    return found
