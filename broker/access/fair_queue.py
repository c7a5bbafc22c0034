"""The queue of logins: fair by address, and within an address by user name. What is done with a flood: `logins`. No I/O.

- Addresses take turns, whatever each of them has waiting; so do the user names of one address.
- What waits is bounded: ``per_user`` for one user name of one address, where the newest pushes the oldest out (a flood must
  not keep a right password from being looked at), and ``per_address`` for one address, above which nothing is taken.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What can be queued."""

    @property
    def address(self) -> str: ...

    @property
    def user(self) -> str: ...


T = TypeVar("T", bound=Waiting)


class FairQueue(Generic[T]):
    """First in, first out for one user name of one address; in rotation between them."""

    def __init__(self, *, per_user: int, per_address: int) -> None:
        self._per_user = per_user
        self._per_address = per_address
        self._addresses: OrderedDict[str, OrderedDict[str, deque[T]]] = OrderedDict()
        self._last = ("", "")
        """Who had the last turn: the next one is another's, also where that one came only now."""

    def __len__(self) -> int:
        return sum(len(items) for users in self._addresses.values() for items in users.values())

    def put(self, item: T) -> T | None:
        """Queue it. What found no place instead: the oldest of the same user name, the item itself, or None."""
        users = self._addresses.get(item.address) or OrderedDict()
        items = users.get(item.user) or deque()
        pushed_out = items.popleft() if len(items) >= self._per_user else None
        if pushed_out is None and sum([len(waiting) for waiting in users.values()]) >= self._per_address:
            return item
        items.append(item)
        users[item.user] = items
        self._addresses[item.address] = users
        return pushed_out

    def take(self) -> T | None:
        """The next one; None where nothing waits."""
        if not self._addresses:
            return None
        last_address, last_user = self._last
        if last_address in self._addresses:
            self._addresses.move_to_end(last_address)
        address, users = self._addresses.popitem(last=False)
        if address == last_address and last_user in users:
            users.move_to_end(last_user)
        user, items = users.popitem(last=False)
        self._last = (address, user)
        item = items.popleft()
        if items:
            users[user] = items
        if users:
            self._addresses[address] = users
        return item

    def discard(self, item: T) -> None:
        """Forget one that waits; nothing where it does not."""
        users = self._addresses.get(item.address)
        items = users.get(item.user) if users is not None else None
        if users is None or items is None or item not in items:
            return
        items.remove(item)
        if not items:
            del users[item.user]
        if not users:
            del self._addresses[item.address]
