"""Who a client is, and what it may do: amqtt's auth and topic plugins, asked as amqtt's broker asks them.

- A client is let in when at least one auth plugin answers, and none answers no; None is no answer. With no auth plugin
  nobody is let in.
- A user name is *verified* when a plugin that checks credentials said yes. `AnonymousAuthPlugin` checks none, whatever
  name it is shown, and `UserAuthCertPlugin` checks the client id; where only such plugins said yes, the name counts for
  nothing: the client is ``c/<client id>``, and topic plugins see no user name. A plugin of your own that checks no user
  name says so with a class attribute ``verifies = None``, or ``verifies = "client_id"``.
- Something may be done when every topic plugin says yes; None is a no here, as it is in amqtt. With no topic plugin
  everything may.
- Passwords are checked on threads, by turns, and remembered for a while (`broker.access.logins`).
- A plugin with an attribute ``needs_identity = True`` lets nobody in whom no plugin verified, whatever the others say.
- A plugin that raises or takes longer than ``hooks.timeout`` has said no; only whether a device may receive a message is
  asked again until there is an answer, because a no would lose the message for good. The log gets the exception's type
  and place, never its text, which may hold a credential.
- Answers about topics are kept per connection for ``acl_cache_seconds``, unless a topic plugin has a class attribute
  ``cacheable = False``.

Over 300 lines: the questions to plugins and the memory of their answers are one thing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from amqtt.contexts import Action
from amqtt.plugins.authentication import AnonymousAuthPlugin

from broker.access.amqtt_session import LightSession
from broker.access.identity import AuthRequest, Identity, SessionInfo, session_of, settle
from broker.access.logins import Busy, Logins
from broker.packets import shown
from broker.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

_WORDS = {Action.PUBLISH: "publish to", Action.SUBSCRIBE: "subscribe to", Action.RECEIVE: "receive"}
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
_VERIFIES_CLIENT_ID = {("amqtt.contrib.cert", "UserAuthCertPlugin")}

Asker = Callable[..., Awaitable[Any]]

_BUSY = object()
"""The answer of a plugin whose turn did not come."""

OWN = "$sync/"
"""The broker's answers to a device. No plugin is asked: the broker itself sees to it that each device has only its own."""


class AuthPlugins(Protocol):
    """What is asked: `broker.amqtt.plugin_host.Plugins`, or anything alike."""

    @property
    def auth_plugins(self) -> Sequence[Any]: ...

    @property
    def topic_plugins(self) -> Sequence[Any]: ...


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
        """Counts `use`: what was found out before no longer holds."""
        self.open = False
        """True where no topic plugin is loaded: everything may be done, and nobody has to be asked."""
        self.use(plugins)
        if not self._auth:
            logger.warning("no auth plugin is configured: clients without enhanced authentication will be refused")

    def use(self, plugins: AuthPlugins) -> None:
        """Ask these plugins from now on, and remember nothing that others said.

        The caller has the connections forget what they may do (`SessionInfo.forget_answers`).
        """
        self.generation += 1
        self._logins.forget()
        self._auth = [(plugin, self._login_asker(plugin, number)) for number, plugin in enumerate(plugins.auth_plugins)]
        self._topic = [(plugin, self._topic_asker(plugin)) for plugin in plugins.topic_plugins]
        self._needs_identity = any(getattr(plugin, "needs_identity", False) for plugin in plugins.auth_plugins)
        self._immediate = all(self._is(plugin, "topic_filtering", "immediate", _IMMEDIATE) for plugin, _ in self._topic)
        cacheable = all(getattr(plugin, "cacheable", True) for plugin, _ in self._topic)
        self._keep = self._acl_cache_seconds if cacheable else 0.0
        self.open = not self._topic

    def close(self) -> None:
        """Give the threads back. What still runs on one ends with the process at the latest."""
        self._logins.close()
        self._questions.close()

    # --- who is it -------------------------------------------------------------------------------------------------

    async def authenticate(self, request: AuthRequest) -> Identity | None:
        """Who the client is, or None where it is refused. Never raises on account of a plugin.

        Raises `Busy` where its password could not be looked at in time.
        """
        generation = 0
        while generation != self.generation:  # other plugins meanwhile: what the old ones said counts for nothing
            generation = self.generation
            session = session_of(request)
            answers = await asyncio.gather(*(self._ask_auth(plugin, ask, session) for plugin, ask in self._auth))
        if any(answer is _BUSY for answer in answers) and not any(answer is False for answer in answers):
            raise Busy
        keep = bool(self._topic)
        if not keep:
            request.password = session.password = None
        given = [answer for answer in answers if answer is not None]
        if not given or not all(answer is True for answer in given):
            self._log_refused_login(request, answers)
            return None
        verified = {_verifies(plugin) for (plugin, _), yes in zip(self._auth, answers, strict=True) if yes}
        identity = self._identity(request, verified, session if keep or "attributes" in session.__dict__ else None)
        if identity.anonymous and self._needs_identity:
            self._log_refused_login(request, answers, "no plugin verified who it is")
            return None
        settle(session, identity)
        return identity

    def _identity(self, request: AuthRequest, verified: set[str | None], session: LightSession | None) -> Identity:
        if request.username and "username" in verified:
            return Identity(f"u/{request.username}", request.username, False, session)
        return Identity(f"c/{request.client_id}", None, verified <= {None, "username"}, session)

    async def _ask_auth(self, plugin: object, ask: Asker, session: LightSession) -> bool | object | None:
        try:
            answer = await ask(session=session)
        except Busy:
            return _BUSY
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the client is refused, and hears no reason
            logger.error("client %r refused: %s failed: %s", session.client_id, type(plugin).__name__, blame(error))
            return False
        return None if answer is None else bool(answer)

    def _log_refused_login(self, request: AuthRequest, answers: Sequence[object], why: str = "") -> None:
        refusing = [type(plugin).__name__ for (plugin, _), yes in zip(self._auth, answers, strict=True) if yes is False]
        why = why or (f"{', '.join(refusing)} said no" if refusing else "no auth plugin knows it")
        user = "no user name" if request.username is None else f"user {shown(request.username)}"
        self.refusals.warning(
            "%s, %s: refused: %s",
            request.caller,
            user,
            why,
            key=(request.address, request.username, request.client_id),
        )

    def log_refusal(self, session: SessionInfo, action: Action, topic: str, why: str = "") -> None:
        """Tell whoever writes the rules that a client was refused something, and by which plugin; of a flood a bounded part.

        ``why`` stands where it was no plugin that refused.
        """
        asked = topic.split("/", 2)[-1] if topic.startswith("$share/") else topic
        plugin = (session._refused or {}).get((action, asked))
        user = session.identity.user_key
        self.refusals.warning(
            "%s, %s: may not %s %s: %s",
            session.request.caller,
            f"user {shown(session.identity.username)}" if session.identity.username is not None else "anonymous",
            _WORDS[action],
            shown(topic),
            why or (f"{plugin} said no" if plugin else "not authorized"),
            key=(user, action, topic),
        )

    # --- may it ----------------------------------------------------------------------------------------------------

    def cached(self, session: SessionInfo, action: Action, topic: str) -> bool | None:
        """The answer, if it can be had without waiting; None: ask `allowed`."""
        if self.open or topic.startswith(OWN):
            return True
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

    async def allowed(self, session: SessionInfo, action: Action, topic: str) -> bool:
        """Whether the client may ``action`` (publish, subscribe, receive) ``topic``, which for subscribe is a filter.

        A question that is being asked for this connection already is not asked again, unless nothing is to be cached.
        """
        known = self.cached(session, action, topic)
        return known if known is not None else bool(await self._ask(session, action, topic))

    async def settle(self, session: SessionInfo, action: Action, topic: str) -> None:
        """Ask until the plugins have answered, less and less often while they fail; the next `cached` has the answer."""
        delay = 0.5
        while (answer := await self._ask(session, action, topic)) is None:
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY)
        session._held = ((action, topic), answer)

    async def _ask(self, session: SessionInfo, action: Action, topic: str) -> bool | None:
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

    async def _answer(self, session: SessionInfo, action: Action, topic: str) -> bool | None:
        """What the plugins say; None where one failed, which is never cached."""
        for plugin, ask in self._topic:
            try:
                if not await ask(session=session.session, topic=topic, action=action):
                    return self._refuse(session, action, topic, plugin)
            except Exception as error:  # noqa: BLE001 - as above
                self._log_failed(plugin, session, action, topic, error)
                return None
        return self._remember(session, action, topic, True)

    def _answer_now(self, session: SessionInfo, action: Action, topic: str) -> bool:
        """The same, of plugins that never wait. One that fails on a mere computation would fail again: that is a no."""
        for plugin, _ in self._topic:
            try:
                if not _finish(plugin.topic_filtering(session=session.session, topic=topic, action=action)):
                    return self._refuse(session, action, topic, plugin)
            except Exception as error:  # noqa: BLE001 - as above
                self._log_failed(plugin, session, action, topic, error)
                return False
        return self._remember(session, action, topic, True)

    def _refuse(self, session: SessionInfo, action: Action, topic: str, plugin: object) -> bool:
        refused = session._refused
        if refused is None:
            refused = session._refused = {}
        if len(refused) >= _REFUSALS:
            del refused[next(iter(refused))]
        refused[action, topic] = type(plugin).__name__
        return self._remember(session, action, topic, False)

    def _remember(self, session: SessionInfo, action: Action, topic: str, allowed: bool) -> bool:
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
    def _log_failed(plugin: object, session: SessionInfo, action: Action, topic: str, error: BaseException) -> None:
        name = type(plugin).__name__
        logger.error(
            "client %r: no answer whether it may %s %r: %s failed: %s", session.client_id, action, topic, name, blame(error)
        )

    # --- how a plugin is called ------------------------------------------------------------------------------------

    @staticmethod
    def _is(plugin: object, method: str, attribute: str, known: set[tuple[str, str]]) -> bool:
        return bool(getattr(plugin, attribute, _origin(plugin, method) in known))

    def _login_asker(self, plugin: Any, number: int) -> Asker:
        """How to ask a plugin who a client is: with the time limit, and by turns on a thread if it blocks.

        A plugin of your own that blocks and never awaits says so with a class attribute ``blocking = True``; one whose answer
        depends on user name and password alone, and is None without a user name, with ``remember = True``.
        """
        function = plugin.authenticate
        if not self._is(plugin, "authenticate", "blocking", _BLOCKING):
            return self._limited(function)
        logins = self._logins
        remember = self._is(plugin, "authenticate", "remember", _REMEMBER)

        async def ask(session: LightSession) -> Any:
            address, user = session.remote_address or "", session.username or ""
            mark = None
            if remember:
                if not user:
                    return None
                mark = logins.mark(number, user, session.password)
                known = logins.known(mark, address)
                if known is not None:
                    return known
            return await logins.ask(address, user, lambda: _finish(function(session=session)), mark)

        return ask

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
                return await function(**arguments)

        return ask
