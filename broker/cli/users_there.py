"""The users of the running broker, over its HTTP API; where none runs, `broker.cli.users_here` has those in storage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from importlib import import_module
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

from broker.access import Account
from broker.amqtt import Undecided
from broker.cli.ask import Gone, RunningBroker, running_broker
from broker.cli.settings import CANNOT_START, Failure
from broker.config import Settings
from broker.hooks import Imported, NoSuchUser, UserExists, Users
from storage.errors import StorageError

T = TypeVar("T")
Action = Callable[[Users], Coroutine[Any, Any, T]]

_AT_ONCE = 500
"""Users of one call: an API takes a thousand, and not more bytes than two packets have."""


class AskedUsers(Users):
    """What the API answers; hashes it does not tell."""

    def __init__(self, broker: RunningBroker) -> None:
        self._broker = broker

    def all(self) -> list[Account]:
        """See `broker.hooks.Users`."""
        found: list[Account] = []
        after: str | None = ""
        while after is not None:
            page = self._broker.get(f"/users?limit={_AT_ONCE}&after={quote(after, safe='')}")
            found += map(_account, page["users"])
            after = page["next"]
        return found

    async def add(self, name: str, hash: str) -> Account:
        """See `broker.hooks.Users`."""
        return _account(self._broker.post("/users", {"name": name, "hash": hash}))

    async def change(self, name: str, *, hash: str | None = None, disabled: bool | None = None) -> Account:
        """See `broker.hooks.Users`."""
        wanted = {"hash": hash, "disabled": disabled}
        body = {key: value for key, value in wanted.items() if value is not None}
        return _account(self._broker.patch(f"/users/{quote(name, safe='')}", body))

    async def delete(self, name: str) -> None:
        """See `broker.hooks.Users`."""
        self._broker.delete(f"/users/{quote(name, safe='')}")

    async def take(self, users: Mapping[str, str], *, replace: bool) -> Imported:
        """See `broker.hooks.Users`."""
        total, rest = Imported(0, 0, 0), iter(users.items())
        while some := dict(islice(rest, _AT_ONCE)):
            answer = self._broker.post("/users/import", {"users": some, "replace": replace})
            total = Imported(total.added + answer["added"], total.changed + answer["changed"], total.kept + answer["kept"])
        return total


def _account(fields: Mapping[str, Any]) -> Account:
    return Account(fields["name"], "", fields["disabled"], fields["created"], fields["changed"])


def with_users(settings: Settings, action: Action[T], *, make: bool = False) -> T:
    """Do something to the users, wherever they are. Where there is no database yet, ``make`` makes it. Raises `Failure`."""
    try:
        broker = running_broker(settings)
        if broker is not None:
            return asyncio.run(action(AskedUsers(broker)))
        here = import_module("broker.cli.users_here")  # with all of the broker, which who only asks does not wait for
        found: T = here.with_users_here(settings, action, make)
        return found
    except Gone as error:
        raise Failure([error.told], CANNOT_START) from None
    except (NoSuchUser, UserExists) as error:
        raise Failure([str(error)], 1) from None
    except ValueError as error:
        raise Failure([str(error)], 2) from None
    except Undecided:
        raise Failure(["storage does not answer; what was asked may still happen"], CANNOT_START) from None
    except StorageError as error:
        raise Failure([" ".join(str(error).split())], CANNOT_START) from None
