"""The users in storage as a plugin: it lets them in, and ends the connections of whom it shuts out."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from broker.access import BEGUN, USER, Account, Passwords
from broker.amqtt import Services, TidelineContext
from plugins.accounts.routes import make_router
from plugins.accounts.store import UserStore
from plugins.http import add_router

log = logging.getLogger(__name__)


class AccountsPlugin(UserStore, BaseAuthPlugin):
    """Lets in the users that storage has. Until there is a first one, it has no say."""

    guards = USER
    blocking = True  # Argon2
    remember = True
    anonymous_until_users = True
    """Beside it, amqtt's anonymous plugin is no mistake: `tideline check` does not warn."""

    @dataclass
    class Config:
        """Settings under ``plugins: accounts:``."""

        anonymous: bool = False
        """Whether clients whom no plugin verified are let in beside users too, where AnonymousAuthPlugin lets them."""

    config: Config
    context: TidelineContext

    def __init__(self, context: Any) -> None:
        BaseAuthPlugin.__init__(self, context)
        UserStore.__init__(self, cast(Services, self.context.server))
        self._passwords = Passwords()
        self.has_users = False
        """Whether there is a user, or was one once."""
        self.server.watch_settings(USER, self._changed)
        add_router(context, make_router(self))

    # --- who is it (`broker.access.authentication`) ------------------------------------------------------------------

    @property
    def needs_identity(self) -> bool:
        """Whether who was verified by nobody is refused."""
        return self.has_users and not self.config.anonymous

    def known_by(self, name: str) -> str | None:
        """What an answer about a user rests on; None where there is nobody to be told from anybody."""
        if not self.has_users:
            return None
        account = self.accounts.get(name)
        return "" if account is None else f"{account.disabled} {account.hash}"

    def knows(self, name: str) -> bool:
        """Whether there is a user of that name."""
        return name in self.accounts

    def bars(self, name: str) -> bool:
        """Whether a user is disabled: it is let in by no other plugin either, nor by a token."""
        account = self.accounts.get(name)
        return account is not None and account.disabled

    async def authenticate(self, *, session: Session) -> bool | None:
        """User name and password in CONNECT; None without a name, and as long as there are no users."""
        if not session.username or not self.has_users:
            return None
        right = self._passwords.verify(session.username, session.password or "")
        return right and not self.bars(session.username)

    # --- what has changed, on whatever node --------------------------------------------------------------------------

    def _changed(self, settings: Mapping[str, bytes], changed: Collection[str]) -> None:
        begun = bool(settings) and not self.has_users
        self.has_users = self.has_users or bool(settings)
        revoked = {name for name in changed if name != BEGUN and self._take(name, settings.get(name))}
        if not changed:
            return
        if begun and self.needs_identity:
            log.info("there are users: from here on anonymous clients are refused (plugins.accounts.anonymous lets them in)")
        ended = self.server.revoke(
            lambda identity: identity.username in revoked or (identity.anonymous and self.needs_identity),
            "the user was removed or disabled, or has another password now",
        )
        if ended:
            log.info("%d connection%s of removed or changed users ended", ended, "s" * (ended != 1))

    def _take(self, name: str, value: bytes | None) -> bool:
        """Take a user as storage has it; whether who was let in as this user is no longer."""
        before, account = self.accounts.get(name), None
        if value is None:
            self.know(name, None)
            self._passwords.drop(name)
        else:
            account = _decoded(name, value)
            self.know(name, account)
            self._passwords.put(name, account.hash)
        return account is None or account.disabled or (before is not None and account.hash != before.hash)


def _decoded(name: str, value: bytes) -> Account:
    """What cannot be read lets nobody in."""
    try:
        return Account.decode(name, value)
    except ValueError as error:
        log.error("%s: the user is shut out until the password is set anew", error)
        return Account(name, "", disabled=True)
