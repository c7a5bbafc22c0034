"""Work that begins before it is awaited, without a task of its own. No I/O."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

S = TypeVar("S")


class Begun(Generic[S]):
    """A coroutine that runs at once, up to where it first waits. The task that made this must await it, and so goes on with it.

    Beside a task for it that is a round of the event loop less until it begins, and another one until its end is heard of. What
    it awaits is awaited by the very task that ran it until then, as a time limit that it has set must find.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, S]) -> None:
        self._coroutine = coroutine
        self._awaited: Any = None
        self._result: list[S] = []
        self._go_on(None)

    def _go_on(self, error: BaseException | None) -> None:
        try:
            self._awaited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration as end:
            self._result.append(end.value)

    def __await__(self) -> Generator[Any, None, S]:
        while not self._result:
            try:
                yield self._awaited
            except BaseException as thrown:  # noqa: BLE001 - it is the coroutine's, as is what that raises of it
                self._go_on(thrown)
            else:
                return (yield from self._coroutine.__await__())  # which raises no `StopIteration` where it is compiled
        return self._result[0]
