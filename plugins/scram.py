"""SCRAM-SHA-256 against a credentials file: enhanced authentication for MQTT 5, and passwords for everybody else."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path

from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from broker.access.scram import ITERATIONS, METHOD, Credential, Exchange, ProofError, ScramError
from broker.hooks import Accepted, AuthExchange, AuthStart, Challenge, Denied, EnhancedAuthPlugin
from broker.packets.codes import ReasonCode


class ScramPlugin(EnhancedAuthPlugin, BaseAuthPlugin):
    """Knows the users of one file, which `tideline passwd --scram` keeps.

    It is read when the broker starts, and again by `tideline reload`.
    """

    methods = (METHOD,)
    blocking = True  # `authenticate` computes for some 10 ms
    remember = True
    reloadable = True
    needs_identity = True

    @dataclass
    class Config:
        """Settings under ``plugins: scram:``."""

        file: str
        """The credentials, one user a line."""
        passwords: bool = True
        """Whether the users may also send user name and password in CONNECT, as 3.1.1 and the HTTP API do."""
        anonymous: bool = False
        """Whether clients whom no plugin verified are let in too, where AnonymousAuthPlugin lets them."""

        def __post_init__(self) -> None:
            read(Path(self.file))

    def __init__(self, context: object) -> None:
        super().__init__(context)
        self._users = read(Path(self.config.file))
        self._iterations = next((c.iterations for c in self._users.values()), ITERATIONS)
        self._secret = secrets.token_bytes(32)
        self.needs_identity = not self.config.anonymous

    @property
    def credentials(self) -> dict[str, str]:
        """What a user is known by; one that changes is a user whose connections end at a reload."""
        return {name: str(credential) for name, credential in self._users.items()}

    def begin(self, start: AuthStart) -> AuthExchange:
        """A client begins to authenticate, by password or by nothing else."""
        return _Steps(Exchange(self._find))

    async def authenticate(self, *, session: Session) -> bool | None:
        """User name and password in CONNECT; None without a name."""
        if not self.config.passwords or not session.username:
            return None
        credential, known = self._find(session.username)
        return credential.matches(session.password or "") and known

    def _find(self, username: str) -> tuple[Credential, bool]:
        found = self._users.get(username)
        if found is not None:
            return found, True
        salt = hmac.digest(self._secret, username.encode(errors="surrogatepass"), "sha256")[:16]
        return Credential(self._iterations, salt, secrets.token_bytes(32), secrets.token_bytes(32)), False


class _Steps:
    """The messages of one exchange, in their order."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._challenged = False
        self._greeted = False

    async def step(self, data: bytes) -> Challenge | Accepted:
        """An empty first message is a client that waits for the server to speak."""
        try:
            if self._challenged:
                return Accepted(self._exchange.username, self._exchange.final(data))
            if not data and not self._greeted:
                self._greeted = True
                return Challenge(b"")
            self._challenged = True
            return Challenge(self._exchange.first(data))
        except ProofError as error:
            raise Denied(str(error), ReasonCode.BAD_USER_NAME_OR_PASSWORD) from error
        except ScramError as error:
            raise Denied(str(error)) from error


def read(path: Path) -> dict[str, Credential]:
    """The users of a credentials file. Raises ValueError naming the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"file: cannot read {path}: {reason}") from error
    users: dict[str, Credential] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, text = line.strip().partition(":")
        try:
            if not name or not colon or name in users:
                raise ValueError("must be <user>:<credential>, one line a user")
            users[name] = Credential.parse(text)
        except ValueError as error:
            raise ValueError(f"file: {path}, line {number}: {error} (made by tideline passwd --scram)") from None
    return users
