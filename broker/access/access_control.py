"""Who a client is, and what it may do: amqtt's auth and topic plugins, asked as amqtt's broker asks them.

- A client is let in when at least one auth plugin answers, and none answers no; None is no answer. With no auth plugin
  nobody is let in.
- A user name is *verified* when a plugin that checks credentials said yes. `AnonymousAuthPlugin` checks none, whatever
  name it is shown, and `UserAuthCertPlugin` checks the client id; where only such plugins said yes, the name counts for
  nothing: the client is ``c/<client id>``, and topic plugins see no user name. A plugin of your own that checks no user
  name says so with a class attribute ``verifies = None``, or ``verifies = "client_id"``.
- Where a plugin ``takes`` what a client sent (a token), the others are not asked, and no field with a token is logged.
- A client whose certificate names a user (``identity`` of its listener) is that user, and no auth plugin is asked.
- Something may be done when every topic plugin says yes; None is a no here, as it is in amqtt. With no topic plugin
  everything may. amqtt's plugins know nothing of history and search: they allow what may be subscribed to and received.
- A topic that stands for another one (`broker.access.stand_ins`) is never asked about itself.
- A topic plugin that is a `Decider` answers on the spot, and says which rule decides. While it has no rules nobody is asked.
- Passwords are checked on threads, by turns, and remembered for a while (`broker.access.logins`).
- On a listener that other machines can reach, nobody comes in whom no plugin verified, unless the listener's ``anonymous``
  says so.
- A plugin with an attribute ``needs_identity = True`` lets nobody in whom no plugin verified, whatever the others say.
- A plugin with a method ``knows(name)`` has its no about a name that it does not know passed over where another plugin
  verified the client. One with a method ``bars(name)`` shuts a user out, however it proved who it is.
- A topic plugin that is a `MembersOnly` has topics of its own, where nobody but its members may do anything; of other topics it
  says nothing. What it says is not kept per connection, as it changes for one user at a time, and at once.
- A plugin that raises or takes longer than ``hooks.timeout`` has said no; only whether a device may receive a message is
  asked again until there is an answer, because a no would lose the message for good. The log gets the exception's type
  and place, never its text, which may hold a credential.
- Answers about topics are kept per connection for ``acl_cache_seconds``, unless a topic plugin has a class attribute
  ``cacheable = False``. Those from before a change of rules or plugins count for nothing, whoever holds them.

Over 300 lines: the questions to plugins and the memory of their answers are one thing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from amqtt.contexts import Action
from amqtt.plugins.authentication import AnonymousAuthPlugin

from broker.access.amqtt_session import LightSession
from broker.access.identity import AuthRequest, CannotTell, Identity, SessionInfo, session_of, settle
from broker.access.logins import Busy, Logins
from broker.access.rules import HISTORY, PUBLISH, RECEIVE, SEARCH, SUBSCRIBE, Verdict
from broker.access.stand_ins import StandIns, settled
from broker.packets import shown
from broker.plugin_call import answer_of
from broker.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

_WORDS = {PUBLISH: "publish to", SUBSCRIBE: "subscribe to", RECEIVE: "receive", HISTORY: "read", SEARCH: "search"}
_TO_AMQTT = {
    PUBLISH: (Action.PUBLISH,),
    SUBSCRIBE: (Action.SUBSCRIBE,),
    RECEIVE: (Action.RECEIVE,),
    HISTORY: (Action.SUBSCRIBE, Action.RECEIVE),
    SEARCH: (Action.SUBSCRIBE, Action.RECEIVE),
}
_ANSWERS = 256  # per connection: some 40 KB at worst
_REFUSALS = 16  # of which the plugin is known, per connection
_WAIT_FACTOR = 10  # how many time limits a question about a topic may wait for its turn at a blocking plugin
_TOPIC_QUESTIONS = 2000  # of one user at one address that may wait for it
_RETRY = 30.0  # seconds between two attempts to get an answer, at most

# amqtt's plugins that block the loop in a coroutine that never awaits (Argon2, LDAP): they run on a thread.
_BLOCKING = {
    ("amqtt.plugins.authentication", "FileAuthPlugin"),
    ("amqtt.contrib.ldap", "UserAuthLdapPlugin"),
    ("amqtt.contrib.ldap", "TopicAuthLdapPlugin"),
}
# amqtt's plugins that answer by user name and password alone: what they said may be remembered.
_REMEMBER = {("amqtt.plugins.authentication", "FileAuthPlugin")}
# amqtt's plugins whose answer is a quick computation in a coroutine that never awaits: asked on the spot, without a task.
_IMMEDIATE = {
    ("amqtt.plugins.topic_checking", "TopicAccessControlListPlugin"),
    ("amqtt.plugins.topic_checking", "TopicTabooPlugin"),
    ("amqtt.contrib.jwt", "TopicAuthJwtPlugin"),
}
# The same of who a client is.
_IMMEDIATE_LOGINS = {("amqtt.plugins.authentication", "AnonymousAuthPlugin")}
_VERIFIES_CLIENT_ID = {("amqtt.contrib.cert", "UserAuthCertPlugin")}

Asker = Callable[..., Awaitable[Any]]


class MustWait(Exception):
    """The answer cannot be had on the spot."""


class _Login(NamedTuple):
    """How a plugin is asked who a client is. ``now`` answers without waiting, or raises `MustWait`; None where it cannot."""

    plugin: Any
    ask: Asker
    now: Callable[[LightSession], Any] | None


class _Failed(Exception):
    """A plugin did not answer."""

    def __init__(self, plugin: object, error: Exception) -> None:
        super().__init__(plugin)
        self.plugin = plugin
        self.error = error


_BUSY = object()
"""The answer of a plugin whose turn did not come."""
_CANNOT_TELL = object()
"""That of one which has to ask somebody who does not answer."""

OWN = "$sync/"
"""The broker's answers to a device. No plugin is asked: the broker itself sees to it that each device has only its own."""


class AuthPlugins(Protocol):
    """What is asked: `broker.amqtt.plugin_host.Plugins`, or anything alike."""

    @property
    def auth_plugins(self) -> Sequence[Any]: ...

    @property
    def topic_plugins(self) -> Sequence[Any]: ...


@runtime_checkable
class Decider(Protocol):
    """A topic plugin with rules of its own (`plugins.acl`)."""

    @property
    def unused(self) -> bool:
        """Whether it has no rules: it then says yes to everything."""

    def decide(self, info: SessionInfo, action: str, topic: str) -> Verdict:
        """Whether a client may publish, receive, read (history) or search a topic, or subscribe to a filter. Never waits."""


@runtime_checkable
class MembersOnly(Protocol):
    """A topic plugin that says who may do what on topics of its own (`plugins.conversations`). What other plugins say holds
    beside it."""

    def governs(self, topic: str) -> bool:
        """Whether a topic, or a filter, is one of its."""

    def known(self, user: str, action: str, topic: str) -> bool | None:
        """What it says of a user (key), as it is now, where that can be had without waiting."""

    async def ask(self, user: str, action: str, topic: str) -> bool:
        """The same, in any case. Raises `StorageError`."""


_NO_MEMBER = "not a member"


def _origin(plugin: object, method: str) -> tuple[str, str]:
    """(module, class) of the class that wrote the method which a plugin answers with."""
    function = getattr(type(plugin), method, None)
    return getattr(function, "__module__", ""), getattr(function, "__qualname__", "").partition(".")[0]


def _verifies(plugin: object) -> str | None:
    """What a yes of this plugin says about: "username", "client_id", or None for nothing."""
    if isinstance(plugin, AnonymousAuthPlugin):
        return None
    default = "client_id" if _origin(plugin, "authenticate") in _VERIFIES_CLIENT_ID else "username"
    declared: str | None = getattr(plugin, "verifies", default)
    return declared


def _knows(plugin: object, username: str) -> bool:
    """Whether a plugin's no is about a user of its own; so it is where it says nothing of that."""
    knows = getattr(plugin, "knows", None)
    return knows is None or bool(knows(username))


def _finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never waits, without a loop; `RuntimeError` where it does wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("the plugin awaits something: it can't be declared immediate or blocking")


def blame(error: BaseException) -> str:
    """An exception by its type and place. Not its text: plugins put credentials there."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return type(error).__name__
    return f"{type(error).__name__} at {place.tb_frame.f_code.co_filename.rpartition('/')[2]}:{place.tb_lineno}"


class AccessControl:
    """Asks the plugins. All times are seconds.

    ``acl_cache_seconds`` and ``login_cache_seconds``: how long answers are kept; 0 keeps none. ``patience``: how long a
    login may wait for its turn where passwords are checked.
    """

    def __init__(
        self,
        plugins: AuthPlugins,
        *,
        timeout: float = 5.0,
        acl_cache_seconds: float = 60.0,
        login_cache_seconds: float = 900.0,
        patience: float = 10.0,
    ) -> None:
        self._timeout = timeout
        self._acl_cache_seconds = acl_cache_seconds
        self._logins = Logins(patience=patience, limit=timeout, remember=login_cache_seconds)
        self._questions = Logins(patience=timeout * _WAIT_FACTOR, limit=timeout, per_user=_TOPIC_QUESTIONS)
        self.refusals = RateLimitedLog(logger, 1.0)
        self.generation = 0
        """Counts `use` and `rules_changed`: what was found out before no longer holds."""
        self.stand_ins = StandIns()
        self.outsiders = False
        """Whether users come in whom none of the plugins was asked about: by certificate, or a way of a plugin's own."""
        self.open = False
        """True where no topic plugin is loaded that has rules: everything may be done, and nobody has to be asked."""
        self.unruled = False
        """The same but for topics that are their members' alone."""
        self.use(plugins)
        if not self._auth:
            logger.warning("no auth plugin is configured: clients without enhanced authentication will be refused")

    def use(self, plugins: AuthPlugins) -> None:
        """Ask these plugins from now on, and remember nothing that others said."""
        self.generation += 1
        self._logins.forget()
        self._auth = [self._login(plugin, number) for number, plugin in enumerate(plugins.auth_plugins)]
        self._deciders = [plugin for plugin in plugins.topic_plugins if isinstance(plugin, Decider)]
        self._lists = [plugin for plugin in plugins.topic_plugins if isinstance(plugin, MembersOnly)]
        others = [plugin for plugin in plugins.topic_plugins if not isinstance(plugin, Decider | MembersOnly)]
        self._topic = [(plugin, self._topic_asker(plugin)) for plugin in others]
        self._several = sum(1 for plugin in plugins.auth_plugins if _verifies(plugin)) > 1
        self._immediate = all(self._is(plugin, "topic_filtering", "immediate", _IMMEDIATE) for plugin, _ in self._topic)
        cacheable = all(getattr(plugin, "cacheable", True) for plugin, _ in self._topic)
        self._keep = self._acl_cache_seconds if cacheable else 0.0
        self._see_whom_to_ask()

    def rules_changed(self) -> None:
        """A `Decider` has other rules, or there are other users: whatever was answered by the old ones is asked again, also
        about who is being let in at this moment."""
        self.generation += 1
        self._see_whom_to_ask()

    def _see_whom_to_ask(self) -> None:
        self.unruled = not self._topic and all(decider.unused for decider in self._deciders)
        self.open = self.unruled and not self._lists

    def close(self) -> None:
        """Give the threads back. What still runs on one ends with the process at the latest."""
        self._logins.close()
        self._questions.close()

    # --- who is it -------------------------------------------------------------------------------------------------

    async def authenticate(self, request: AuthRequest) -> Identity | None:
        """Who the client is, or None where it is refused. Never raises on account of a plugin.

        Raises `Busy` where its password could not be looked at in time, and `CannotTell` where nobody knows at the moment.
        """
        if request.certified:
            return self._certified(request)
        generation = 0
        while generation != self.generation:  # other plugins meanwhile: what the old ones said counts for nothing
            generation = self.generation
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
        session = session_of(request)
        auth = self._takers(session) or self._auth
        if any(login.now is None for login in auth):
            raise MustWait
        return self._decided(request, session, auth, [self._login_now(login, session) for login in auth])

    def _decided(
        self, request: AuthRequest, session: LightSession, auth: Sequence[_Login], answers: list[Any]
    ) -> Identity | None:
        answers = self._without_strangers(request.username, auth, answers)
        request.username = session.username  # without a token that was there
        if not any(answer is False for answer in answers):
            if any(answer is _CANNOT_TELL for answer in answers):
                raise CannotTell
            if any(answer is _BUSY for answer in answers):
                raise Busy
        keep = bool(self._topic)
        if not keep:
            request.password = session.password = None
        decided = [answer for answer in answers if answer is not None]
        if not decided or not all(answer is True for answer in decided):
            self._log_refused_login(request, auth, answers)
            return None
        verified = {_verifies(login.plugin) for login, yes in zip(auth, answers, strict=True) if yes}
        identity = self._identity(request, verified, session, keep=keep or "attributes" in session.__dict__)
        if self.bars(identity.username):
            self._log_refused_login(request, auth, answers, "the user is disabled")
            return None
        if identity.anonymous and self.needs_identity:
            self._log_refused_login(request, auth, answers, "no plugin verified who it is")
            return None
        if identity.anonymous and not request.anonymous_allowed:
            why = "others can reach this listener: set up users, or anonymous: true for the listener"
            self._log_refused_login(request, auth, answers, why)
            return None
        settle(session, identity)
        return identity

    def _certified(self, request: AuthRequest) -> Identity | None:
        """A client whose certificate says who it is; what else it says counts for nothing."""
        if self.bars(request.certified):
            self._log_refused_login(request, (), (), "the user of its certificate is disabled")
            return None
        request.password = None
        session = session_of(request) if self._topic else None
        identity = Identity(f"u/{request.certified}", request.certified, False, session)
        if session is not None:
            settle(session, identity)
        return identity

    def bars(self, username: str | None) -> bool:
        """Whether a user is shut out, however it proves who it is."""
        return username is not None and any(plugin.bars(username) for plugin, *_ in self._auth if hasattr(plugin, "bars"))

    def gone(self, username: str | None) -> bool:
        """Whether a user is there no more: every plugin that verifies user names says that it knows none of this name. False
        where one cannot tell (a plugin without ``knows``, such as JWT), or there are `outsiders`."""
        verifying = [plugin for plugin, *_ in self._auth if _verifies(plugin) == "username"]
        if username is None or self.outsiders or not verifying:
            return False
        return all(hasattr(plugin, "knows") and not plugin.knows(username) for plugin in verifying)

    @property
    def needs_identity(self) -> bool:
        """Whether who was verified by nobody is refused, whatever the listener allows."""
        return any(getattr(plugin, "needs_identity", False) for plugin, *_ in self._auth)

    @property
    def verifies_client_ids(self) -> bool:
        """Whether a plugin does: then who has no user name may be verified all the same."""
        return any(_verifies(plugin) == "client_id" for plugin, *_ in self._auth)

    @staticmethod
    def _without_strangers(username: str | None, auth: Sequence[_Login], answers: list[Any]) -> list[Any]:
        """The answers without the no of those who do not know the user, where another plugin does."""
        asked = list(zip(auth, answers, strict=True))
        if not username or not any(yes is True and _verifies(login.plugin) for login, yes in asked):
            return answers
        return [None if yes is False and not _knows(login.plugin, username) else yes for login, yes in asked]

    def takes(self, request: AuthRequest) -> bool:
        """Whether a plugin takes what was sent as a token of its own."""
        return bool(self._takers(session_of(request)))

    def _takers(self, session: LightSession) -> list[_Login]:
        return [login for login in self._auth if hasattr(login.plugin, "takes") and login.plugin.takes(session)]

    def _identity(self, request: AuthRequest, verified: set[str | None], session: LightSession, *, keep: bool) -> Identity:
        kept, name = session if keep else None, session.verified_as or request.username
        if name and "username" in verified:
            return Identity(f"u/{name}", name, False, kept, session.valid_until, session.vouched_by)
        return Identity(f"c/{request.client_id}", None, verified <= {None, "username"}, kept, session.valid_until)

    async def _ask_auth(self, login: _Login, session: LightSession) -> bool | object | None:
        try:
            answer = await login.ask(session=session)
        except Busy:
            return _BUSY
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the client is refused, and hears no reason
            return self._no_answer(login.plugin, session, error)
        return None if answer is None else bool(answer)

    def _login_now(self, login: _Login, session: LightSession) -> bool | object | None:
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
            self.refusals.warning("nobody can log in by %s: %s", type(plugin).__name__, error, key=(type(plugin), str(error)))
            return _CANNOT_TELL
        logger.error("client %r refused: %s failed: %s", session.client_id, type(plugin).__name__, blame(error))
        return False

    def _log_refused_login(
        self, request: AuthRequest, auth: Sequence[_Login], answers: Sequence[object], why: str = ""
    ) -> None:
        refusing = [type(login.plugin).__name__ for login, yes in zip(auth, answers, strict=True) if yes is False]
        why = why or (f"{', '.join(refusing)} said no" if refusing else "no auth plugin knows it")
        user = "no user name" if request.username is None else f"user {shown(request.username)}"
        self.refusals.warning(
            "%s, %s: refused: %s",
            request.caller,
            user,
            why,
            key=(request.address, request.username, request.client_id),
            about={"client": request.client_id, "user": request.username, "address": request.address},
        )

    def log_refusal(self, session: SessionInfo, action: str, topic: str, why: str = "") -> None:
        """Tell whoever writes the rules that a client was refused something, and by which of them; of a flood a bounded part.

        ``why`` stands where it was no plugin that refused.
        """
        asked = self.stand_ins.real(action, topic.split("/", 2)[-1] if topic.startswith("$share/") else topic)
        refused = (session._refused or {}).get((action, str(asked)))
        user = session.identity.user_key
        self.refusals.warning(
            "%s, %s: may not %s %s: %s",
            session.request.caller,
            f"user {shown(session.identity.username)}" if session.identity.username is not None else "anonymous",
            _WORDS[action],
            shown(topic),
            why or refused or "not authorized",
            key=(user, action, topic),
            about={"client": session.request.client_id, "user": user, "address": session.request.address, "topic": topic},
        )

    def log_refused_message(self, session: SessionInfo, topic: str, why: str) -> None:
        """Tell of a message that will not be stored, whoever may publish it; of many for one reason, one."""
        user = session.identity.user_key
        self.refusals.warning(
            "%s, %s: message to %s refused: %s",
            session.request.caller,
            f"user {shown(session.identity.username)}" if session.identity.username is not None else "anonymous",
            shown(topic),
            why,
            key=("message", why),
            about={"client": session.request.client_id, "user": user, "address": session.request.address, "topic": topic},
        )

    # --- may it ----------------------------------------------------------------------------------------------------

    def closed(self, topic: str) -> str:
        """See `StandIns.closed`."""
        return self.stand_ins.closed(topic)

    def cached(self, session: SessionInfo, action: str, topic: str) -> bool | None:
        """The answer, if it can be had without waiting; None: ask `allowed`."""
        if self.open or topic.startswith(OWN):
            return True
        if topic.startswith("$"):
            real = self.stand_ins.real(action, topic)
            if isinstance(real, bool):
                return real
            topic = real
        for members in self._lists:
            if members.governs(topic) and not (known := members.known(session.identity.user_key, action, topic)):
                return known
        if self.unruled:
            return True
        if session.generation != self.generation:
            session.forget_answers(self.generation)
        key = (action, topic)
        answers = session._answers
        if answers is not None:
            found = answers.get(key)
            if found is not None and found[1] > time.monotonic():
                if len(answers) > _ANSWERS // 2:  # only a cache that fills needs to know what was used last
                    answers[key] = answers.pop(key)
                return found[0]
        if self._immediate:
            return self._answer_now(session, action, topic)
        held = session._held
        if held is not None and held[0] == key:
            session._held = None
            return held[1]
        return None

    async def allowed(self, session: SessionInfo, action: str, topic: str) -> bool:
        """Whether the client may ``action`` (`broker.access.ACTIONS`) ``topic``, which for subscribe is a filter.

        A question that is being asked for this connection already is not asked again, unless nothing is to be cached.
        """
        known = self.cached(session, action, topic)
        return known if known is not None else bool(await self._ask(session, action, str(self.stand_ins.real(action, topic))))

    async def listed(self, user: str, action: str, topic: str) -> bool | None:
        """Whether a user (key) may do something on a topic that is its members' alone; None for any other topic. Raises
        `StorageError`."""
        for members in self._lists:
            if members.governs(topic):
                return await members.ask(user, action, topic)
        return None

    async def explained(self, session: SessionInfo, action: str, topic: str) -> Verdict:
        """The same, asked anew, with the rule that decides, or the plugin that said no. Raises `StorageError`."""
        real = self.stand_ins.real(action, topic)
        if isinstance(real, bool):
            return settled(real)
        topic = real
        listed = await self.listed(session.identity.user_key, action, topic)
        if listed is False:
            return Verdict(False, None, f"{_NO_MEMBER} who may")
        for decider in self._deciders:
            verdict = decider.decide(session, action, topic)
            if not verdict.allowed:
                return verdict
        if await self._answer(session, action, topic):
            named = next((v for d in self._deciders if (v := d.decide(session, action, topic)).rule is not None), None)
            others = ", ".join(type(plugin).__name__ for plugin, _ in self._topic)
            return named or Verdict(True, None, f"{others} said yes" if others else "there are no rules")
        return Verdict(False, None, (session._refused or {}).get((action, topic), "a plugin failed"))

    async def settle(self, session: SessionInfo, action: str, topic: str) -> None:
        """Ask until the plugins have answered, less and less often while they fail; the next `cached` has the answer."""
        topic, delay = str(self.stand_ins.real(action, topic)), 0.5
        while (answer := await self._ask(session, action, topic)) is None:
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY)
        session._held = ((action, topic), answer)

    async def _ask(self, session: SessionInfo, action: str, topic: str) -> bool | None:
        if not self._keep:
            return await self._answer(session, action, topic)
        asked = session._asked
        if asked is None:
            asked = session._asked = {}
        key = (action, topic)
        task = asked.get(key)
        if task is None:
            task = asked[key] = asyncio.get_running_loop().create_task(self._answer(session, action, topic))
            task.add_done_callback(lambda _: asked.pop(key, None))
        return await asyncio.shield(task)

    async def _answer(self, session: SessionInfo, action: str, topic: str) -> bool | None:
        """What the plugins say; None where one failed, which is never cached."""
        while True:
            generation = self.generation
            if session.generation != generation:
                session.forget_answers(generation)
            forgotten, failed, answer, refused = session.forgotten, None, False, ""
            try:
                answer, refused = await self._asked_all(session, action, topic)
            except _Failed as error:
                failed = error
            if generation == self.generation and forgotten == session.forgotten:
                break  # else there are other rules, or it is another user, meanwhile: what was said counts for nothing
        if failed is not None:
            self._log_failed(failed.plugin, session, action, topic, failed.error)
            return None
        return self._settled(session, action, topic, answer, refused, keep=refused != _NO_MEMBER)

    async def _asked_all(self, session: SessionInfo, action: str, topic: str) -> tuple[bool, str]:
        """The answer, and who says no. Raises `_Failed`."""
        for members in self._lists:
            if members.governs(topic):
                try:
                    async with asyncio.timeout(self._timeout):
                        if not await members.ask(session.identity.user_key, action, topic):
                            return False, _NO_MEMBER
                except Exception as error:
                    raise _Failed(members, error) from error
        for decider in self._deciders:
            verdict = decider.decide(session, action, topic)
            if not verdict.allowed:
                return False, verdict.why
        for plugin, ask in self._topic:
            for asked in _TO_AMQTT[action]:
                try:
                    if not await ask(session=session.session, topic=topic, action=asked):
                        return False, f"{type(plugin).__name__} said no"
                except Exception as error:
                    raise _Failed(plugin, error) from error
        return True, ""

    def _answer_now(self, session: SessionInfo, action: str, topic: str) -> bool:
        """The same, of plugins that never wait. One that fails on a mere computation would fail again: that is a no."""
        for decider in self._deciders:
            verdict = decider.decide(session, action, topic)
            if not verdict.allowed:
                return self._settled(session, action, topic, False, verdict.why)
        for plugin, _ in self._topic:
            for asked in _TO_AMQTT[action]:
                try:
                    if not _finish(plugin.topic_filtering(session=session.session, topic=topic, action=asked)):
                        return self._settled(session, action, topic, False, f"{type(plugin).__name__} said no")
                except Exception as error:  # noqa: BLE001 - as above
                    self._log_failed(plugin, session, action, topic, error)
                    return False
        return self._settled(session, action, topic, True, "")

    def _settled(
        self, session: SessionInfo, action: str, topic: str, allowed: bool, refused: str, *, keep: bool = True
    ) -> bool:
        if not allowed:
            known = session._refused
            if known is None:
                known = session._refused = {}
            if len(known) >= _REFUSALS:
                del known[next(iter(known))]
            known[action, topic] = refused
        return self._remember(session, action, topic, allowed) if keep else allowed

    def _remember(self, session: SessionInfo, action: str, topic: str, allowed: bool) -> bool:
        if self._keep:
            answers = session._answers
            if answers is None:
                answers = session._answers = {}
            key = (action, topic)
            answers.pop(key, None)
            if len(answers) >= _ANSWERS:
                del answers[next(iter(answers))]
            answers[key] = (allowed, time.monotonic() + self._keep)
        return allowed

    @staticmethod
    def _log_failed(plugin: object, session: SessionInfo, action: str, topic: str, error: BaseException) -> None:
        name = type(plugin).__name__
        logger.error(
            "client %r: no answer whether it may %s %r: %s failed: %s",
            *(session.client_id, action, topic, name, blame(error)),
            extra={"client": session.client_id, "topic": topic, "plugin": name},
        )

    # --- how a plugin is called ------------------------------------------------------------------------------------

    @staticmethod
    def _is(plugin: object, method: str, attribute: str, known: set[tuple[str, str]]) -> bool:
        return bool(getattr(plugin, attribute, _origin(plugin, method) in known))

    def _login(self, plugin: Any, number: int) -> _Login:
        """How to ask a plugin who a client is: with the time limit, and by turns on a thread if it blocks.

        A plugin of your own that blocks and never awaits says so with a class attribute ``blocking = True``; one whose answer
        depends on user name and password alone, and is None without a user name, with ``remember = True``. Where it depends on
        what the user is known by at the moment too, a method ``known_by(name)`` gives that, or None where it has no answer.
        """
        function = plugin.authenticate
        if _origin(plugin, "authenticate") in _IMMEDIATE_LOGINS:
            return _Login(plugin, self._limited(function), lambda session: _finish(function(session=session)))
        if not self._is(plugin, "authenticate", "blocking", _BLOCKING):
            return _Login(plugin, self._limited(function), None)
        logins = self._logins
        remember = self._is(plugin, "authenticate", "remember", _REMEMBER)
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
            return await logins.ask(address, user, lambda: _finish(function(session=session)), mark, login=login)

        return _Login(plugin, ask, now if remember else None)

    def _topic_asker(self, plugin: Any) -> Asker:
        """The same for a question about a topic."""
        function = plugin.topic_filtering
        if not self._is(plugin, "topic_filtering", "blocking", _BLOCKING):
            return self._limited(function)

        async def ask(session: LightSession, topic: str, action: Action) -> Any:
            address, user = session.remote_address or "", session.username or ""
            call = lambda: _finish(function(session=session, topic=topic, action=action))  # noqa: E731
            return await self._questions.ask(address, user, call, login=False)

        return ask

    def _limited(self, function: Callable[..., Awaitable[Any]]) -> Asker:
        async def ask(**arguments: Any) -> Any:
            async with asyncio.timeout(self._timeout):
                return await answer_of(function(**arguments))

        return ask
