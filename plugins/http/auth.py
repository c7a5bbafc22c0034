"""Who calls: the broker's own auth plugins for Basic, tokens of ours for Bearer, and the operator where nobody else can call.

- A client id proves nothing here: a caller is somebody only where a plugin verified its user name.
- The operator: as long as everything is bound to loopback and there are no users, a caller without credentials may do
  everything. That ends when a listener binds elsewhere, or an auth plugin that knows users is configured. From then on only
  who can read the broker's own files is the operator: by the secret in `operator_file`, or the one beside it. It counts also
  from an address that is barred.
- A token is 256 random bits; storage has its SHA-256 only. A password that was right is remembered for a minute, as a keyed
  hash.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import math
import secrets
from collections.abc import Callable
from dataclasses import replace

from amqtt.plugins.authentication import AnonymousAuthPlugin, FileAuthPlugin
from starlette.requests import Request

from broker.access import AuthRequest, Busy, CannotTell, Identity, SessionInfo
from broker.amqtt import Services
from plugins.timelines import OPERATOR, Forbidden, Problem, Who
from plugins.timelines.errors import TooMany
from storage.records import DeviceKey, Token

log = logging.getLogger(__name__)

PREFIX = "tl_"
_CLIENT_ID = "$http"
_REMEMBERED, _REMEMBER_SECONDS = 1000, 60


class Unauthorized(Problem):
    status, name, title = 401, "unauthorized", "who are you?"


class CannotLogIn(Problem):
    status, name, title = 503, "cannot-log-in", "nobody can log in"


class TooManyLogins(Problem):
    status, name, title = 503, "too-many-logins", "the broker is busy"


def has_users(plugin: object) -> bool:
    """Whether an auth plugin knows anybody: amqtt's anonymous one does not, nor does its file plugin with an empty file."""
    if isinstance(plugin, AnonymousAuthPlugin) or not getattr(plugin, "has_users", True):
        return False
    return not (isinstance(plugin, FileAuthPlugin) and not getattr(plugin, "_users", {}))


def digest_of(secret: str) -> str:
    """What storage knows a token by."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_token(user: str, label: str, created: int, expires: int) -> tuple[str, Token]:
    """A secret, to be shown once, and its record."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, Token(secrets.token_hex(8), digest_of(secret), user, label, created, expires)


class Authenticator:
    """Lets callers in. ``loopback``: whether the API itself can be reached from this machine only.

    ``is_operator`` says of a bearer token whether it makes its caller the operator.
    """

    def __init__(self, server: Services, *, loopback: bool, is_operator: Callable[[str], bool]) -> None:
        self._server = server
        self._loopback = loopback
        self._is_operator = is_operator
        self._key = secrets.token_bytes(32)
        self._known: dict[bytes, tuple[int, SessionInfo]] = {}
        self._revoked = 0

    def token_revoked(self) -> None:
        """A token was revoked, on whatever node."""
        self._revoked += 1

    @property
    def revision(self) -> tuple[int, int, int]:
        """Another one once users, rules, tokens or bans have changed: who waits has to prove anew who it is."""
        return self._revoked, self._server.access.generation, self._server.bans.changes

    def over(self, who: Who) -> bool:
        """Whether the token that a caller showed has ended."""
        return 0 < who.until <= self._server.now()

    @property
    def open_to_operator(self) -> bool:
        """Whether a caller without credentials is the operator."""
        safe = self._loopback and self._server.settings.loopback_only
        return safe and not any(has_users(plugin) for plugin in self._server.auth_plugins)

    async def who(self, request: Request) -> Who:
        """The caller. Raises `Unauthorized`, and `TooMany` where too many were from the same address."""
        header = request.headers.get("authorization", "")
        gate, address = self._server.gate, _address(request)
        if not header or self._shows_operator(header):  # who can read the broker's files is never locked out
            return await self._who(header, request)
        if left := gate.barred(address, _CLIENT_ID, header.encode()):
            raise TooMany("too many failed logins from this address", retry_after=math.ceil(left))
        try:
            who = await self._who(header, request)
        except Unauthorized:
            await asyncio.sleep(gate.failed(address))
            raise
        gate.succeeded(address, _CLIENT_ID, header.encode())
        return who

    def _shows_operator(self, header: str) -> bool:
        scheme, _, value = header.partition(" ")
        return scheme.lower() == "bearer" and self._is_operator(value.strip())

    async def again(self, request: Request) -> Who:
        """The same of a caller whom `who` let in: that it is nobody any more is no failed login, and is known at once."""
        return await self._who(request.headers.get("authorization", ""), request)

    async def _who(self, header: str, request: Request) -> Who:
        who = await self._named(header, request)
        ban = self._server.bans.of(self._server.now(), user=who.user, address=_address(request))
        if ban is not None and not who.operator:
            raise Forbidden("banned")
        return who

    async def _named(self, header: str, request: Request) -> Who:
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "basic":
            return await self._basic(value.strip(), request)
        if scheme.lower() == "bearer":
            return await self._bearer(value.strip(), request)
        if not header and self.open_to_operator:
            return Who(OPERATOR, None, operator=True)
        raise Unauthorized("send a user name and password (Basic) or a token (Bearer)")

    async def _bearer(self, secret: str, caller: Request) -> Who:
        if self._is_operator(secret):
            return Who(OPERATOR, None, operator=True)
        storage = self._server.storage
        token = await storage.token(digest_of(secret)) if secret.startswith(PREFIX) else None
        if token is None and (who := await self._by_plugin(secret, caller)) is not None:
            return who
        if token is None or 0 < token.expires <= self._server.now():
            raise Unauthorized("the token is unknown, expired or revoked")
        if token.user == OPERATOR:
            if not self.open_to_operator:
                raise Unauthorized("the token belongs to the operator, and there is none any more")
            return Who(OPERATOR, None, operator=True, until=token.expires)
        name = token.user[2:]
        if self._server.access.authentication.bars(name):
            raise Unauthorized("the token belongs to a user who is disabled")
        return Who(
            token.user,
            SessionInfo(Identity(token.user, name, False), AuthRequest(_CLIENT_ID, name, peer=_peer(caller), over_http=True)),
            until=token.expires,
        )

    async def _by_plugin(self, secret: str, caller: Request) -> Who | None:
        """Who a token is of that a plugin knows (JWT), or None. Raises `Unauthorized` for one that does not count."""
        request = AuthRequest(_CLIENT_ID, None, secret.encode(), _peer(caller), over_http=True)
        if not self._server.access.authentication.takes(request):
            return None
        identity = await self._identity(request)
        if identity is None or identity.username is None:
            raise Unauthorized("the token is not accepted")
        return self._as(identity, request)

    def _as(self, identity: Identity, request: AuthRequest) -> Who:
        ends = identity.valid_until  # by the wall clock, as a token says it
        until = self._server.now() + max(1, int(ends * 1000) - self._server.wall()) if ends else 0
        return Who(identity.user_key, SessionInfo(identity, request), until=until)

    async def _identity(self, request: AuthRequest) -> Identity | None:
        try:
            return await self._server.access.authentication.authenticate(request)
        except Busy:
            raise TooManyLogins("too many logins at once, try again") from None
        except CannotTell:
            raise CannotLogIn("who you are cannot be found out at the moment, try again") from None

    async def _basic(self, value: str, caller: Request) -> Who:
        try:
            name, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise Unauthorized("the Basic credentials are not base64 of user:password in UTF-8") from None
        if not colon or not name:
            raise Unauthorized("the Basic credentials need a user name and a password")
        address = _address(caller)
        # A reload of the users forgets who was known; who calls from elsewhere is another in the log.
        said = f"{self._server.access.generation}\0{address}\0{name}\0{password}"
        mark = hmac.digest(self._key, said.encode(), "sha256")
        known = self._known.get(mark)
        if known is not None and known[0] > self._server.now():
            return Who(known[1].identity.user_key, known[1])
        request = AuthRequest(_CLIENT_ID, name, password.encode(), _peer(caller), over_http=True)
        identity = await self._identity(request)
        if identity is None or identity.username is None:
            raise Unauthorized("wrong user name or password")
        who = self._as(identity, request)
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        if who.info is not None and not who.until:
            self._known[mark] = (self._server.now() + _REMEMBER_SECONDS * 1000, who.info)
        return who


class Lasting:
    """A caller whose call lasts, looked at again: meanwhile a user may be shut out or banned, a token revoked, or end."""

    def __init__(self, authenticator: Authenticator, request: Request, who: Who) -> None:
        self._authenticator, self._request, self._who = authenticator, request, who
        self._revision = authenticator.revision

    async def check(self) -> None:
        """Raise `Unauthorized` or `Forbidden` where the caller would not be let in any more."""
        revision = self._authenticator.revision
        if revision != self._revision or self._authenticator.over(self._who):
            self._who = await self._authenticator.again(self._request)
            self._revision = revision


def _address(caller: Request) -> str:
    return caller.client.host if caller.client else ""


def _peer(caller: Request) -> str:
    return f"[{caller.client.host}]:{caller.client.port}" if caller.client else ""


def acting_for(who: Who, user: str | None, device: str | None = None) -> Who:
    """The caller as the user that it names: itself, or for an operator anybody.

    An operator that names a device and no user means the anonymous client of that id.
    """
    if not who.operator:
        if user is not None and user != who.user:
            raise Forbidden(f"user {user[:80]!r}: you are {who.user!r}")
        return who
    if user is None and device is not None:
        user = f"c/{device}"
    return replace(who, user=user) if user else who


def device_of(who: Who, device: str) -> DeviceKey:
    """A device of the user that the caller acts as."""
    return DeviceKey(who.user, device)
