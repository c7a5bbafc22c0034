"""Who a client is: what it asked for at CONNECT, as whom it was let in, and what its connection keeps of that."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field

from broker.access.amqtt_session import LightSession
from broker.packets import shown


@dataclass(slots=True, eq=False)
class AuthRequest:
    """What a CONNECT brought. ``client_id`` is the one that counts, assigned by the server where the client sent none.

    ``password`` is dropped once it was checked, unless a topic plugin is loaded (amqtt's JWT plugin reads it again).
    """

    client_id: str
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    address: str = ""
    port: int = 0
    ssl_object: ssl.SSLObject | None = None
    clean: bool = True
    keep_alive: int = 0
    version: int = 4
    over_http: bool = False

    @property
    def caller(self) -> str:
        """Who asks and from where, for the log."""
        if self.over_http:
            return f"HTTP caller at {self.address}"
        return f"client {shown(self.client_id)} at {self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a connection acts as.

    ``user_key`` is ``u/<user name>`` or ``c/<client id>``. ``username`` is the verified name, or None. ``anonymous`` means
    that nothing about the client was verified. ``session`` is what the auth plugins saw and may have written to; None
    where nobody will ask for it again.
    """

    user_key: str
    username: str | None = None
    anonymous: bool = True
    session: LightSession | None = field(default=None, compare=False, repr=False)


class SessionInfo:
    """What is kept per connection for plugins: next to nothing until one of them wants to see it."""

    __slots__ = ("_answers", "_asked", "_held", "_refused", "_session", "identity", "request")

    def __init__(self, identity: Identity, request: AuthRequest) -> None:
        self.identity = identity
        self.request = request
        self._session = identity.session
        self._answers: dict[tuple[str, str], tuple[bool, float]] | None = None
        self._refused: dict[tuple[str, str], str] | None = None  # by which plugin; of the last refusals
        self._asked: dict[tuple[str, str], asyncio.Task[bool | None]] | None = None
        self._held: tuple[tuple[str, str], bool] | None = None

    @property
    def client_id(self) -> str:
        return self.request.client_id

    @property
    def session(self) -> LightSession:
        """The amqtt session of this connection, made when it is first asked for."""
        session = self._session
        if session is None:
            session = self._session = session_of(self.request)
            settle(session, self.identity)
        return session

    def forget_answers(self) -> None:
        """Ask the topic plugins anew."""
        self._answers = self._held = None

    @property
    def seen(self) -> LightSession | None:
        """The same, or None where nobody has asked for it yet."""
        return self._session


def session_of(request: AuthRequest) -> LightSession:
    """An amqtt session as amqtt's broker fills one from a CONNECT."""
    session = LightSession(request.client_id)
    session.remote_address = request.address
    session.remote_port = request.port
    session.clean_session = request.clean
    session.keep_alive = request.keep_alive
    if request.username is not None:
        session.username = request.username
    if request.password is not None:
        # amqtt's plugins expect text; what is not UTF-8 stays distinct from everything that is.
        session.password = request.password.decode(errors="surrogateescape")
    if request.ssl_object is not None:
        session.ssl_object = request.ssl_object
    return session


def settle(session: LightSession, identity: Identity) -> None:
    """Make a session say who its client turned out to be."""
    session.user_key = identity.user_key
    session.username = identity.username
    session.is_anonymous = identity.anonymous
    session.transitions.connect()
