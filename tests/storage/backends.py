"""The backends that the suite runs over.

A new backend is one module `tests/storage/backend_<name>.py` that defines a subclass of `Backend` called ``BACKEND``; it is
found by its name. One `Backend` object stands for one database of one test.
"""

from __future__ import annotations

import importlib
import pkgutil
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from storage.interface import Storage
from storage.memory import MemoryStorage
from storage.records import Message


class Backend:
    """One database. Created per test (and per Hypothesis example), inside the running loop or before it."""

    name = ""
    durable = True
    """Whether a reopened database holds what was committed; `reopen` is not called where it does not."""
    faults = True
    """Whether `away` and `lose_answer` work."""
    breakable = True
    """False, before it is opened, where neither is called: there may be a shorter way to it."""
    repeats = False
    """Whether it shows again what another one shows: the suite runs over it in `make test-all`, the model test always."""
    examples = 40
    """How many Hypothesis examples the model test may take; fewer where a database is slow to make."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    async def open(self) -> Storage:
        """This database, opened: empty the first time, as it was left afterwards."""
        raise NotImplementedError

    async def reopen(self, storage: Storage) -> Storage:
        """Close, and open again as a new process would."""
        await storage.close()
        return await self.open()

    def model(self) -> Storage:
        """What a database of this kind does, in memory."""
        return MemoryStorage()

    def away(self, storage: Storage) -> AbstractAsyncContextManager[None]:
        """While entered, commits of ``storage`` really fail with StorageUnavailable, soon, and change nothing."""
        raise NotImplementedError

    def lose_answer(self, storage: Storage) -> None:
        """Make the next commit durable and yet raise StorageUnavailable, as a connection lost at the wrong moment does."""
        raise NotImplementedError

    def lose_nothing(self, storage: Storage) -> None:
        """Lose no answer any more: a commit that writes nothing did not lose the one that was to be lost."""

    def impossible(self, message: Message) -> Message | None:
        """``message`` changed so that this backend can never store it; None where everything can be stored."""
        return None

    async def destroy(self) -> None:
        """Remove what the test directory does not hold."""


def _find() -> dict[str, type[Backend]]:
    package = importlib.import_module("tests.storage")
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("backend_"):
            backend = importlib.import_module(f"tests.storage.{module.name}").BACKEND
            found[backend.name] = backend
    return found


def backends() -> dict[str, type[Backend]]:
    """Name and class of every backend."""
    return _find()
