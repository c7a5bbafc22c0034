"""What an administrator does with the users in storage: a plugin offers it to the HTTP API and to the command line."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

from broker.access import Account


class NoSuchUser(LookupError):
    """There is no user of that name."""


class UserExists(Exception):
    """There is one already."""


class Imported(NamedTuple):
    """How many users an import added and changed, and how many it left as they were."""

    added: int
    changed: int
    kept: int


class Users(ABC):
    """Each call that changes something returns once that is durable, and has ended the connections of whom it shuts out here;
    other nodes end theirs within a second.

    Raises ValueError for a name or hash that cannot be, `storage.errors.StorageUnavailable`, and `broker.amqtt.Undecided`.
    """

    @abstractmethod
    def all(self) -> list[Account]:
        """Every user, by name."""

    @abstractmethod
    async def add(self, name: str, hash: str) -> Account:
        """A new user. Raises `UserExists`."""

    @abstractmethod
    async def change(self, name: str, *, hash: str | None = None, disabled: bool | None = None) -> Account:
        """Another password, or let in or not. Another password revokes the user's tokens. Raises `NoSuchUser`."""

    @abstractmethod
    async def delete(self, name: str) -> None:
        """Forget a user, and revoke the tokens. Sessions and messages stay. Raises `NoSuchUser`."""

    @abstractmethod
    async def take(self, users: Mapping[str, str], *, replace: bool) -> Imported:
        """Users with their hashes, all or none; who is there already stays as it is, unless ``replace``."""
