"""What keeps the broker from starting. For errors of the wire see `broker.packets.codes`, of storage `storage.errors`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator


class StartError(Exception):
    """The broker cannot start as it is configured; the message names the setting and what would be right."""


class Faults(ValueError):
    """Several things that are wrong with one value, a text each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def refuse(faults: Iterable[str]) -> None:
    """Raises `Faults` where there is one: for the ``__post_init__`` of a ``Config``, so that all are told at once."""
    if found := list(faults):
        raise Faults(found)


def fault_of(check: Callable[[], object]) -> Iterator[str]:
    """What a check raises as ValueError, if it does."""
    try:
        check()
    except ValueError as error:
        yield str(error)
