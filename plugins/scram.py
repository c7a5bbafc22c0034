"""SCRAM-SHA-256 against a credentials file: enhanced authentication for MQTT 5, and passwords for everybody else."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session
from scramp import ScramException, ScramMechanism

from broker.access import ITERATIONS, METHOD, Credential, prepared
from broker.hooks import Accepted, AuthExchange, AuthStart, Challenge, Denied, EnhancedAuthPlugin
from broker.packets import ReasonCode

_WRONG = "unknown user or wrong password"


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
        self._by_prepared = {form: name for name in self._users if (form := _form(name)) != name}
        self._secret = secrets.token_bytes(32)
        self.needs_identity = not self.config.anonymous

    @property
    def credentials(self) -> dict[str, str]:
        """What a user is known by; one that changes is a user whose connections end at a reload."""
        return {name: str(credential) for name, credential in self._users.items()}

    def knows(self, name: str) -> bool:
        """Whether a user is in the file."""
        return name in self._users

    def begin(self, start: AuthStart) -> AuthExchange:
        """A client begins to authenticate, by password or by nothing else."""
        return _Steps(self._find_prepared)

    async def authenticate(self, *, session: Session) -> bool | None:
        """User name and password in CONNECT; None without a name."""
        if not self.config.passwords or not session.username:
            return None
        credential, known = self._find(session.username)
        return credential.matches(session.password or "") and known

    def _find_prepared(self, username: str) -> tuple[str, Credential, bool]:
        """The same by a name as SASLprep writes it."""
        name = self._by_prepared.get(username, username)
        return name, *self._find(name)

    def _find(self, username: str) -> tuple[Credential, bool]:
        found = self._users.get(username)
        if found is not None:
            return found, True
        salt = hmac.digest(self._secret, username.encode(errors="surrogatepass"), "sha256")[:16]
        return Credential(self._iterations, salt, secrets.token_bytes(32), secrets.token_bytes(32)), False


class _Steps:
    """The messages of one exchange, in their order. ``find`` gives user name, credential, and whether there is such a user.

    Channel binding is not offered: TLS is between client and listener, which may be a proxy.
    """

    def __init__(self, find: Callable[[str], tuple[str, Credential, bool]], nonce: str | None = None) -> None:
        self._find = find
        self._exchange = ScramMechanism(METHOD).make_server(self._keys, s_nonce=nonce)
        self._username = ""
        self._known = self._challenged = self._greeted = False

    def _keys(self, username: str) -> tuple[bytes, bytes, bytes, int]:
        self._username, credential, self._known = self._find(username)
        return credential.salt, credential.stored_key, credential.server_key, credential.iterations

    async def step(self, data: bytes) -> Challenge | Accepted:
        """An empty first message is a client that waits for the server to speak."""
        if not data and not self._challenged and not self._greeted:
            self._greeted = True
            return Challenge(b"")
        try:
            return self._final(data.decode()) if self._challenged else self._first(data.decode())
        except UnicodeDecodeError:
            raise Denied("the message is not UTF-8") from None
        except ScramException as error:
            if error.server_error is not None and error.server_error.value == "invalid-proof":
                raise Denied(_WRONG, ReasonCode.BAD_USER_NAME_OR_PASSWORD) from error
            raise Denied(f"SCRAM: {error.args[0]}") from error

    def _first(self, message: str) -> Challenge:
        self._challenged = True
        self._exchange.set_client_first(message)
        return Challenge(self._exchange.get_server_first().encode())

    def _final(self, message: str) -> Accepted:
        self._exchange.set_client_final(message)
        if not self._known:  # a client that knows the keys which an unknown user was given
            raise Denied(_WRONG, ReasonCode.BAD_USER_NAME_OR_PASSWORD)
        return Accepted(self._username, self._exchange.get_server_final().encode())


def _form(name: str) -> str:
    try:
        return prepared(name)
    except ValueError:
        return name


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
