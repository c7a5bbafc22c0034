"""User names and passwords from a file that `tideline passwd` keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from broker.access import Passwords, read


class PasswordsPlugin(BaseAuthPlugin):
    """Lets in who knows a password of the file. It is read when the broker starts, and again by `tideline reload`."""

    blocking = True  # Argon2
    remember = True
    reloadable = True
    needs_identity = True

    @dataclass
    class Config:
        """Settings under ``plugins: passwords:``."""

        file: str
        """The users and their hashes, one user a line."""
        anonymous: bool = False
        """Whether clients whom no plugin verified are let in too, where AnonymousAuthPlugin lets them."""

        def __post_init__(self) -> None:
            try:
                read(Path(self.file))
            except ValueError as error:
                raise ValueError(f"file: {error}") from error

    def __init__(self, context: object) -> None:
        super().__init__(context)
        self._passwords = Passwords(read(Path(self.config.file)))
        self.needs_identity = not self.config.anonymous

    @property
    def credentials(self) -> dict[str, str]:
        """What a user is known by; one that changes is a user whose connections end at a reload."""
        return self._passwords.users

    def knows(self, name: str) -> bool:
        """Whether a user is in the file."""
        return name in self._passwords.users

    async def authenticate(self, *, session: Session) -> bool | None:
        """User name and password in CONNECT; None without a name."""
        if not session.username:
            return None
        return self._passwords.verify(session.username, session.password or "")
