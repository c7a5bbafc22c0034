"""What is done to the users in storage: see `broker.hooks.Users`."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping

from broker.access import BEGUN, USER, Account, hash_problem, name_problem
from broker.amqtt import Services
from broker.hooks import Imported, NoSuchUser, UserExists, Users
from storage.records import DropSetting, DropTokens, Operation, SaveSetting

_TIMEOUT = 10.0
"""Seconds that a change may wait for storage."""


class UserStore(Users):
    """Writes users. Who extends it tells it by `know` what storage has: ``accounts``, by name."""

    def __init__(self, server: Services) -> None:
        self.server = server
        self.accounts: dict[str, Account] = {}
        self._names: list[str] = []
        """In order."""
        self._turn = asyncio.Lock()

    def all(self) -> list[Account]:
        """See `broker.hooks.Users`."""
        return self.page("", len(self._names))

    def page(self, after: str, limit: int) -> list[Account]:
        """Up to ``limit`` users with a name > ``after``, by name."""
        start = bisect_right(self._names, after)
        return [self.accounts[name] for name in self._names[start : start + limit]]

    def know(self, name: str, account: Account | None) -> None:
        """What storage has of a user is this; None for nothing."""
        if account is not None:
            if name not in self.accounts:
                insort(self._names, name)
            self.accounts[name] = account
        elif self.accounts.pop(name, None) is not None:
            del self._names[bisect_left(self._names, name)]

    async def add(self, name: str, hash: str) -> Account:
        """See `broker.hooks.Users`."""
        _check(name, hash)
        async with self._turn:
            if name in self.accounts:
                raise UserExists(f"there is a user {name!r} already")
            now = self.server.wall()
            return await self._save([Account(name, hash, False, now, now)])

    async def change(self, name: str, *, hash: str | None = None, disabled: bool | None = None) -> Account:
        """See `broker.hooks.Users`."""
        if hash is not None:
            _check(name, hash)
        async with self._turn:
            account = self._there(name)
            changed = account._replace(
                hash=account.hash if hash is None else hash,
                disabled=account.disabled if disabled is None else disabled,
            )
            if changed == account:
                return account
            changed = changed._replace(changed=self.server.wall())
            return await self._save([changed], await self._tokens([name]) if changed.hash != account.hash else [])

    async def delete(self, name: str) -> None:
        """See `broker.hooks.Users`."""
        async with self._turn:
            self._there(name)
            await self._commit([DropSetting(USER, name), *await self._tokens([name])])

    async def take(self, users: Mapping[str, str], *, replace: bool) -> Imported:
        """See `broker.hooks.Users`."""
        for name, hash in users.items():
            _check(name, hash)
        async with self._turn:
            now = self.server.wall()
            new = [Account(name, hash, False, now, now) for name, hash in users.items() if name not in self.accounts]
            known = [self.accounts[name] for name, hash in users.items() if name in self.accounts]
            changed = [
                account._replace(hash=users[account.name], changed=now)
                for account in known
                if replace and account.hash != users[account.name]
            ]
            if new or changed:
                await self._save([*new, *changed], await self._tokens([account.name for account in changed]))
            return Imported(len(new), len(changed), len(users) - len(new) - len(changed))

    def _there(self, name: str) -> Account:
        account = self.accounts.get(name)
        if account is None:
            raise NoSuchUser(
                f"there is no user {name[:80]!r} in storage; a ban keeps out who is let in otherwise (tideline ban)"
            )
        return account

    async def _save(self, accounts: list[Account], more: list[Operation] | None = None) -> Account:
        saved: list[Operation] = [SaveSetting(USER, account.name, account.encode()) for account in accounts]
        await self._commit([SaveSetting(USER, BEGUN, b"{}"), *saved, *(more or [])])
        return accounts[-1]

    async def _commit(self, operations: list[Operation]) -> None:
        await self.server.commit(operations, _TIMEOUT)
        for operation in operations:
            if operation.error is not None:
                raise operation.error

    async def _tokens(self, names: list[str]) -> list[Operation]:
        """Forget the users' tokens."""
        users = {f"u/{name}" for name in names}
        some = await self.server.storage.tokens(min(users)) if len(users) == 1 else []
        found = some if len(users) < 2 else [t for t in await self.server.storage.tokens("") if t.user in users]
        return [DropTokens([token.id for token in found])] if found else []


def _check(name: str, hash: str) -> None:
    problem = name_problem(name) or hash_problem(name, hash)
    if problem:
        raise ValueError(problem)
