"""nx-27017 with one fault mended: run as a module, with nx-27017's own arguments.

What is done to a database is serialized by a lock, which nx-27017 chooses by the database that a command names. ``bulkWrite``
names ``admin``, and writes to others. In nx-27017 0.8.1 it thus goes on beside others on the same SQLite connection: what
one inserts is rolled back with another's transaction, acknowledged or not. Here it takes the lock of the database it writes to.

With ``--in-turn`` as the first argument, commands are obeyed in the event loop's own thread, one after the other, in place of a
thread for each: that is a quarter less work. A long command then holds up the others too, also those of other databases.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from nx_27017 import handler, nx_27017

_as_it_names = handler._msg_db_name


def locked_database(message: Any) -> str:
    """The database whose lock a message takes: of a ``bulkWrite``, that of its first namespace."""
    for _, document in message.get("sections") or () if isinstance(message, dict) else ():
        if isinstance(document, dict) and "bulkWrite" in document:
            return str(document["nsInfo"][0]["ns"].partition(".")[0])
    return str(_as_it_names(message))


async def in_turn(obey: Callable[..., Any], *arguments: Any) -> Any:
    """In place of `asyncio.to_thread`, which nothing else in this process calls."""
    return obey(*arguments)


if __name__ == "__main__":
    handler._msg_db_name = locked_database
    if sys.argv[1:2] == ["--in-turn"]:
        del sys.argv[1]
        asyncio.to_thread = in_turn  # type: ignore[assignment]
    nx_27017.main()
