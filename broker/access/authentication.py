"""Who a client is: amqtt's auth plugins, asked as amqtt's broker asks them.

- A client is let in when at least one auth plugin answers, and none answers no; None is no answer. With no auth plugin
  nobody is let in.
- A user name is *verified* when a plugin that checks credentials said yes. `AnonymousAuthPlugin` checks none, whatever
  name it is shown, and `UserAuthCertPlugin` checks the client id; where only such plugins said yes, the name counts for
  nothing: the client is ``c/<client id>``, and topic plugins see no user name. A plugin of your own that checks no user
  name says so with a class attribute ``verifies = None``, or ``verifies = "client_id"``.
- Where a plugin ``takes`` what a client sent (a token), the others are not asked, and no field with a token is logged.
- A client whose certificate names a user (``identity`` of its listener) is that user, and no auth plugin is asked.
- Passwords are checked on threads, by turns, and remembered for a while (`broker.access.logins`).
- On a listener that other machines can reach, nobody comes in whom no plugin verified, unless the listener's ``anonymous``
  says so.
- A plugin with an attribute ``needs_identity = True`` lets nobody in whom no plugin verified, whatever the others say.
- A plugin with a method ``knows(name)`` has its no about a name that it does not know passed over where another plugin
  verified the client. One with a method ``bars(name)`` shuts a user out, however it proved who it is.
- A plugin that raises or takes longer than ``hooks.timeout`` has said no. The log gets the exception's type and place, never
  its text, which may hold a credential.

Over 300 lines: what is asked, and what the answers of several come to, are one thing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from amqtt.plugins.authentication import AnonymousAuthPlugin

from broker.access.amqtt_session import LightSession
from broker.access.asking import BLOCKING, Asker, blame, declared, finish, limited, origin
from broker.access.identity import AuthRequest, CannotTell, Identity, session_of, settle
from broker.access.logins import Busy, Logins
from broker.packets import shown
from broker.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

# amqtt's plugins that answer by user name and password alone: what they said may be remembered.
_REMEMBER = {("amqtt.plugins.authentication", "FileAuthPlugin")}
# amqtt's plugins whose answer is a quick computation in a coroutine that never awaits: asked on the spot, without a task.
_IMMEDIATE = {("amqtt.plugins.authentication", "AnonymousAuthPlugin")}
_VERIFIES_CLIENT_ID = {("amqtt.contrib.cert", "UserAuthCertPlugin")}

_BUSY = object()
"""The answer of a plugin whose turn did not come."""
_CANNOT_TELL = object()
"""That of one which has to ask somebody who does not answer."""


class MustWait(Exception):
    """The answer cannot be had on the spot."""


class Login:
    """How a plugin is asked who a client is. ``now`` answers without waiting, or raises `MustWait`; None where it cannot.

    ``verifies`` is what its yes says something about: "username", "client_id", or None for nothing.
    """

    __slots__ = ("ask", "bars", "may_need_identity", "now", "plugin", "takes", "verifies")

    def __init__(self, plugin: Any, ask: Asker, now: Callable[[LightSession], Any] | None) -> None:
        self.plugin = plugin
        self.ask = ask
        self.now = now
        self.verifies = _verifies(plugin)
        self.may_need_identity = hasattr(plugin, "needs_identity")
        """It has that attribute, whose value may change."""
        self.bars: Callable[[str], object] | None = getattr(plugin, "bars", None)
        self.takes: Callable[[LightSession], object] | None = getattr(plugin, "takes", None)


def _verifies(plugin: object) -> str | None:
    if isinstance(plugin, AnonymousAuthPlugin):
        return None
    default = "client_id" if origin(plugin, "authenticate") in _VERIFIES_CLIENT_ID else "username"
    verifies: str | None = getattr(plugin, "verifies", default)
    return verifies


def _lets_anybody_in(plugin: Any) -> bool:
    """Whether it is amqtt's plugin for that, and so configured: without a user name it answers by that alone."""
    return type(plugin) is AnonymousAuthPlugin and bool(finish(plugin.authenticate(session=LightSession(""))))


def _knows(plugin: object, username: str) -> bool:
    """Whether a plugin's no is about a user of its own; so it is where it says nothing of that."""
    knows = getattr(plugin, "knows", None)
    return knows is None or bool(knows(username))


class Authentication:
    """Asks the plugins, and tells ``refusals`` whom it did not let in. In seconds: ``timeout`` of a plugin; ``patience``, how
    long a login may wait for its turn where passwords are checked; ``remember``, how long what was said of them is kept."""

    def __init__(self, refusals: RateLimitedLog, *, timeout: float, patience: float, remember: float) -> None:
        self._refusals = refusals
        self._timeout = timeout
        self._logins = Logins(patience=patience, limit=timeout, remember=remember)
        self._auth: list[Login] = []
        self._several = False
        self._keeps_sessions = False
        self._anybody = False
        """The one plugin there is lets in whoever comes."""
        self._changes = 0
        self.outsiders = False
        """Whether users come in whom none of the plugins was asked about: by certificate, or a way of a plugin's own."""

    def use(self, plugins: Sequence[Any], *, keep_sessions: bool) -> None:
        """Ask these plugins from now on, and remember nothing that others said. ``keep_sessions``: what they write to the
        session is asked for again, by topic plugins."""
        self._logins.forget()
        self._auth = [self._login(plugin, number) for number, plugin in enumerate(plugins)]
        self._several = sum(1 for login in self._auth if login.verifies) > 1
        self._keeps_sessions = keep_sessions
        self._anybody = not keep_sessions and len(plugins) == 1 and _lets_anybody_in(plugins[0])
        self.ask_again()

    def ask_again(self) -> None:
        """Plugins, rules or users have changed: who is being let in at this moment is asked about again."""
        self._changes += 1

    def close(self) -> None:
        """Give the threads back. What still runs on one ends with the process at the latest."""
        self._logins.close()

    async def authenticate(self, request: AuthRequest) -> Identity | None:
        """Who the client is, or None where it is refused. Never raises on account of a plugin.

        Raises `Busy` where its password could not be looked at in time, and `CannotTell` where nobody knows at the moment.
        """
        if request.certified:
            return self._certified(request)
        changes = 0
        while changes != self._changes:  # other plugins meanwhile: what the old ones said counts for nothing
            changes = self._changes
            session = session_of(request)
            auth = self._takers(session) or self._auth
            asking = [self._ask_auth(login, session) for login in auth]
            answers: list[Any] = [await asking[0]] if len(asking) == 1 else await asyncio.gather(*asking)
        return self._decided(request, session, auth, answers)

    def authenticate_now(self, request: AuthRequest) -> Identity | None:
        """The same on the spot: without a task, where many connect at once. Raises `MustWait` where somebody is to be asked who
        may take a while; those who answered are asked again then."""
        if request.certified:
            return self._certified(request)
        if self._anybody:
            return self._let_in(request)
        session = session_of(request)
        auth = self._takers(session) or self._auth
        for login in auth:
            if login.now is None:
                raise MustWait
        return self._decided(request, session, auth, [self._login_now(login, session) for login in auth])

    def _decided(
        self, request: AuthRequest, session: LightSession, auth: Sequence[Login], answers: list[Any]
    ) -> Identity | None:
        if request.username:
            answers = self._without_strangers(request.username, auth, answers)
        request.username = session.username  # without a token that was there
        if False not in answers:
            if _CANNOT_TELL in answers:
                raise CannotTell
            if _BUSY in answers:
                raise Busy
        keep = self._keeps_sessions
        if not keep:
            request.password = session.password = None
        if False in answers or True not in answers:
            self._log_refused_login(request, auth, answers)
            return None
        verified = {login.verifies for login, yes in zip(auth, answers, strict=True) if yes}
        identity = self._identity(request, verified, session, keep=keep or "attributes" in session.__dict__)
        if why := self._unwanted(request, identity):
            self._log_refused_login(request, auth, answers, why)
            return None
        settle(session, identity)
        return identity

    def _unwanted(self, request: AuthRequest, identity: Identity) -> str:
        """Why one is kept out whom the plugins let in; empty where nothing does that."""
        if self.bars(identity.username):
            return "the user is disabled"
        if identity.anonymous and self.needs_identity:
            return "no plugin verified who it is"
        if identity.anonymous and not request.anonymous_allowed:
            return "others can reach this listener: set up users, or anonymous: true for the listener"
        return ""

    def _let_in(self, request: AuthRequest) -> Identity | None:
        """Where nothing is looked at: without a session for plugins to see."""
        request.password = None
        identity = Identity(f"c/{request.client_id}")
        if why := self._unwanted(request, identity):
            self._log_refused_login(request, self._auth, [True], why)
            return None
        return identity

    def _certified(self, request: AuthRequest) -> Identity | None:
        """A client whose certificate says who it is; what else it says counts for nothing."""
        if self.bars(request.certified):
            self._log_refused_login(request, (), (), "the user of its certificate is disabled")
            return None
        request.password = None
        session = session_of(request) if self._keeps_sessions else None
        identity = Identity(f"u/{request.certified}", request.certified, False, session)
        if session is not None:
            settle(session, identity)
        return identity

    def bars(self, username: str | None) -> bool:
        """Whether a user is shut out, however it proves who it is."""
        if username is not None:
            for login in self._auth:
                if login.bars is not None and login.bars(username):
                    return True
        return False

    def gone(self, username: str | None) -> bool:
        """Whether a user is there no more: every plugin that verifies user names says that it knows none of this name. False
        where one cannot tell (a plugin without ``knows``, such as JWT), or there are `outsiders`."""
        verifying = [login.plugin for login in self._auth if login.verifies == "username"]
        if username is None or self.outsiders or not verifying:
            return False
        return all(hasattr(plugin, "knows") and not plugin.knows(username) for plugin in verifying)

    @property
    def needs_identity(self) -> bool:
        """Whether who was verified by nobody is refused, whatever the listener allows."""
        return any(login.may_need_identity and login.plugin.needs_identity for login in self._auth)

    @property
    def verifies_client_ids(self) -> bool:
        """Whether a plugin does: then who has no user name may be verified all the same."""
        return any(login.verifies == "client_id" for login in self._auth)

    @staticmethod
    def _without_strangers(username: str, auth: Sequence[Login], answers: list[Any]) -> list[Any]:
        """The answers without the no of those who do not know the user, where another plugin does."""
        asked = list(zip(auth, answers, strict=True))
        if not any(yes is True and login.verifies for login, yes in asked):
            return answers
        return [None if yes is False and not _knows(login.plugin, username) else yes for login, yes in asked]

    def takes(self, request: AuthRequest) -> bool:
        """Whether a plugin takes what was sent as a token of its own."""
        return bool(self._takers(session_of(request)))

    def _takers(self, session: LightSession) -> list[Login]:
        return [login for login in self._auth if login.takes is not None and login.takes(session)]

    def _identity(self, request: AuthRequest, verified: set[str | None], session: LightSession, *, keep: bool) -> Identity:
        kept, name = session if keep else None, session.verified_as or request.username
        if name and "username" in verified:
            return Identity(f"u/{name}", name, False, kept, session.valid_until, session.vouched_by)
        return Identity(f"c/{request.client_id}", None, verified <= {None, "username"}, kept, session.valid_until)

    async def _ask_auth(self, login: Login, session: LightSession) -> bool | object | None:
        try:
            answer = await login.ask(session=session)
        except Busy:
            return _BUSY
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the client is refused, and hears no reason
            return self._no_answer(login.plugin, session, error)
        return None if answer is None else bool(answer)

    def _login_now(self, login: Login, session: LightSession) -> bool | object | None:
        assert login.now is not None
        try:
            answer = login.now(session)
        except MustWait:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            return self._no_answer(login.plugin, session, error)
        return None if answer is None else bool(answer)

    def _no_answer(self, plugin: object, session: LightSession, error: Exception) -> object:
        if isinstance(error, CannotTell):
            self._refusals.warning("nobody can log in by %s: %s", type(plugin).__name__, error, key=(type(plugin), str(error)))
            return _CANNOT_TELL
        logger.error("client %r refused: %s failed: %s", session.client_id, type(plugin).__name__, blame(error))
        return False

    def _log_refused_login(self, request: AuthRequest, auth: Sequence[Login], answers: Sequence[object], why: str = "") -> None:
        refusing = [type(login.plugin).__name__ for login, yes in zip(auth, answers, strict=True) if yes is False]
        why = why or (f"{', '.join(refusing)} said no" if refusing else "no auth plugin knows it")
        user = "no user name" if request.username is None else f"user {shown(request.username)}"
        self._refusals.warning(
            "%s, %s: refused: %s",
            request.caller,
            user,
            why,
            key=(request.address, request.username, request.client_id),
            about={"client": request.client_id, "user": request.username, "address": request.address},
        )

    def _login(self, plugin: Any, number: int) -> Login:
        """How to ask a plugin who a client is: with the time limit, and by turns on a thread if it blocks.

        A plugin of your own that blocks and never awaits says so with a class attribute ``blocking = True``; one whose answer
        depends on user name and password alone, and is None without a user name, with ``remember = True``. Where it depends on
        what the user is known by at the moment too, a method ``known_by(name)`` gives that, or None where it has no answer.
        """
        function = plugin.authenticate
        if origin(plugin, "authenticate") in _IMMEDIATE:
            return Login(plugin, limited(function, self._timeout), lambda session: finish(function(session=session)))
        if not declared(plugin, "authenticate", "blocking", BLOCKING):
            return Login(plugin, limited(function, self._timeout), None)
        logins = self._logins
        remember = declared(plugin, "authenticate", "remember", _REMEMBER)
        known_by = getattr(plugin, "known_by", None)

        def mark_of(session: LightSession) -> bytes | None:
            """What the answer is remembered by; None where there is no answer."""
            user = session.username
            by = None if not user else known_by(user) if known_by is not None else ""
            return None if not user or by is None else logins.mark(number, user, session.password, by)

        def now(session: LightSession) -> bool | None:
            mark = mark_of(session)
            if mark is None:
                return None
            known = logins.known(mark, session.remote_address or "")
            if known is None:
                raise MustWait
            return known

        async def ask(session: LightSession) -> Any:
            address, user = session.remote_address or "", session.username or ""
            mark = None
            if remember:
                mark = mark_of(session)
                if mark is None:
                    return None
                known = logins.known(mark, address)
                if known is not None:
                    return known
            login = not self._several or _knows(plugin, user)
            return await logins.ask(address, user, lambda: finish(function(session=session)), mark, login=login)

        return Login(plugin, ask, now if remember else None)
