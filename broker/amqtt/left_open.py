"""What is stored and guarded by one plugin, where that plugin is not loaded: it would be open to all without a word.

A plugin says what it guards by its class attribute ``guards``: a kind of stored settings, or a table of rows. A `plugins`
section replaces the whole default, so that one forgotten line is enough. Who means it says `false`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from broker.access import CONVERSATIONS, RULE_KIND, USER
from broker.errors import StartError

if TYPE_CHECKING:
    from storage.interface import Storage


class _Guarded(NamedTuple):
    plugin: str
    what: str
    without: str


_GUARDED = {
    RULE_KIND: _Guarded("acl", "access rules", "nobody would be asked about them"),
    USER: _Guarded("accounts", "users", "their passwords would count for nothing, and nobody would be disabled"),
    CONVERSATIONS: _Guarded("conversations", "conversations", "everybody could read them and write to them"),
}


def unguarded(stored: Collection[str], loaded: Iterable[object], left_out: Collection[str]) -> Iterator[str]:
    """A line for each thing that is stored, and that no ``loaded`` plugin (or class of one) guards."""
    guards = {getattr(plugin, "guards", "") for plugin in loaded}
    for kind, (plugin, what, without) in _GUARDED.items():
        if kind in stored and kind not in guards and plugin not in left_out:
            yield (
                f"plugins: the storage holds {what}, and the plugin that enforces them is not named: {without}; "
                f"add `{plugin}: {{}}` under plugins, or to go on without it `{plugin}: false`"
            )


async def refuse_unguarded(
    storage: Storage, kinds: Collection[str], loaded: Collection[object], left_out: Collection[str]
) -> None:
    """Raises `StartError` where something is open that was not meant to be. ``kinds``: those of the settings in storage."""
    stored = {*kinds}
    if next(unguarded({CONVERSATIONS}, loaded, left_out), None) is not None:
        async for _ in storage.parts(CONVERSATIONS):
            stored.add(CONVERSATIONS)
            break
    if found := list(unguarded(stored, loaded, left_out)):
        raise StartError("; ".join(found))
