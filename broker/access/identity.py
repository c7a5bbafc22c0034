"""Who a client is: what it asked for at CONNECT, and as whom it was let in."""

from __future__ import annotations

import ssl
from typing import Final

from broker.access.amqtt_session import LightSession
from broker.packets import shown


class CannotTell(Exception):
    """What a plugin raises that has to ask somebody who does not answer: neither a yes nor a no."""


class AuthRequest:
    """What a CONNECT brought. ``client_id`` is the one that counts, assigned by the server where the client sent none.

    ``password`` is dropped once it was checked, unless a topic plugin is loaded (amqtt's JWT plugin reads it again). ``peer``
    is where it came from, ``host:port`` with an IPv6 host in brackets; kept as the one string that its connection has.
    ``certified`` is the user that its certificate names, which TLS has verified. ``anonymous_allowed``: whether it may come in
    where no plugin verifies who it is.
    """

    __slots__ = (
        "anonymous_allowed",
        "certified",
        "clean",
        "client_id",
        "keep_alive",
        "over_http",
        "password",
        "peer",
        "ssl_object",
        "username",
        "version",
    )

    def __init__(
        self,
        client_id: str,
        username: str | None = None,
        password: bytes | None = None,
        peer: str = "",
        ssl_object: ssl.SSLObject | None = None,
        clean: bool = True,
        keep_alive: int = 0,
        version: int = 4,
        over_http: bool = False,
        certified: str = "",
        anonymous_allowed: bool = True,
    ) -> None:
        self.client_id = client_id
        self.username = username
        self.password = password
        self.peer = peer
        self.ssl_object = ssl_object
        self.clean = clean
        self.keep_alive = keep_alive
        self.version = version
        self.over_http = over_http
        self.certified = certified
        self.anonymous_allowed = anonymous_allowed

    @property
    def address(self) -> str:
        """The client's host; empty where it is not known."""
        return self.peer.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The client's port; 0 where it is not known."""
        port = self.peer.rpartition(":")[2]
        return int(port) if port.isdigit() else 0

    @property
    def caller(self) -> str:
        """Who asks and from where, for the log."""
        if self.over_http:
            return f"HTTP caller at {self.address}"
        return f"client {shown(self.client_id)} at {self.address}:{self.port}"


class Identity:
    """Who a connection acts as.

    ``user_key`` is ``u/<user name>`` or ``c/<client id>``. ``username`` is the verified name, or None. ``anonymous`` means
    that nothing about the client was verified. ``session`` is what the auth plugins saw and may have written to; None
    where nobody will ask for it again. ``valid_until`` is when what it rests on ends, in seconds since 1970 (0 is
    never), and ``vouched_by`` says what that is, where a plugin may withdraw it.
    """

    __slots__ = ("anonymous", "session", "user_key", "username", "valid_until", "vouched_by")

    def __init__(
        self,
        user_key: str,
        username: str | None = None,
        anonymous: bool = True,
        session: LightSession | None = None,
        valid_until: float = 0.0,
        vouched_by: str = "",
    ) -> None:
        self.user_key: Final = user_key
        self.username: Final = username
        self.anonymous: Final = anonymous
        self.session: Final = session
        self.valid_until: Final = valid_until
        self.vouched_by: Final = vouched_by

    def _fields(self) -> tuple[object, ...]:
        return self.user_key, self.username, self.anonymous, self.valid_until, self.vouched_by

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, Identity) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        user_key, username, anonymous, valid_until, vouched_by = self._fields()
        return f"Identity({user_key=}, {username=}, {anonymous=}, {valid_until=}, {vouched_by=})"


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
