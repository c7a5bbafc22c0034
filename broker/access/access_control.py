"""What a client may do: amqtt's topic plugins, asked as amqtt's broker asks them. Who it is: `broker.access.authentication`.

- Something may be done when every topic plugin says yes; None is a no here, as it is in amqtt. With no topic plugin
  everything may. amqtt's plugins know nothing of history and search: they allow what may be subscribed to and received.
- A topic that stands for another one (`broker.access.stand_ins`) is never asked about itself.
- A topic plugin that is a `Decider` answers on the spot, and says which rule decides. While it has no rules nobody is asked.
- A topic plugin that is a `MembersOnly` has topics of its own, where nobody but its members may do anything; of other topics it
  says nothing. What it says is not kept per connection, as it changes for one user at a time, and at once. One that is also a
  `Hiding` hides the beginning of a topic from some who may receive it.
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
from collections.abc import Sequence
from typing import Any, Final

from amqtt.contexts import Action

from broker.access.amqtt_session import LightSession
from broker.access.asking import BLOCKING, Asker, blame, declared, finish, limited
from broker.access.authentication import Authentication
from broker.access.logins import Logins
from broker.access.openness import Openness
from broker.access.rule_set import HISTORY, PUBLISH, RECEIVE, SEARCH, SUBSCRIBE, Verdict
from broker.access.session_info import SessionInfo
from broker.access.stand_ins import StandIns, settled
from broker.access.topic_plugins import AuthPlugins, Decider, Hiding, MembersOnly
from broker.packets import shown
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
_WAIT_FACTOR = 10  # how many time limits a question about a topic may wait for its turn at a blocking plugin
_TOPIC_QUESTIONS = 2000  # of one user at one address that may wait for it
_RETRY = 30.0  # seconds between two attempts to get an answer, at most

# amqtt's plugins whose answer is a quick computation in a coroutine that never awaits: asked on the spot, without a task.
_IMMEDIATE = {
    ("amqtt.plugins.topic_checking", "TopicAccessControlListPlugin"),
    ("amqtt.plugins.topic_checking", "TopicTabooPlugin"),
    ("amqtt.contrib.jwt", "TopicAuthJwtPlugin"),
}


class _Failed(Exception):
    """A plugin did not answer."""

    def __init__(self, plugin: object, error: Exception) -> None:
        super().__init__(plugin)
        self.plugin = plugin
        self.error = error


OWN: Final = "$sync/"
"""The broker's answers to a device. No plugin is asked: the broker itself sees to it that each device has only its own."""


_NO_MEMBER: Final = "not a member"


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
        self._questions = Logins(patience=timeout * _WAIT_FACTOR, limit=timeout, per_user=_TOPIC_QUESTIONS)
        self.refusals = RateLimitedLog(logger, 1.0)
        self.authentication = Authentication(self.refusals, timeout=timeout, patience=patience, remember=login_cache_seconds)
        self.generation = 0
        """Counts `use` and `rules_changed`: what was found out before no longer holds."""
        self.stand_ins = StandIns()
        self.openness = Openness()
        self.unruled = False
        """The same but for topics that are their members' alone."""
        self.keeps = True
        """Whether answers are kept at all: who has one need not ask again before anything else happens."""
        self.use(plugins)
        if not plugins.auth_plugins:
            logger.warning("no auth plugin is configured: clients without enhanced authentication will be refused")

    def use(self, plugins: AuthPlugins) -> None:
        """Ask these plugins from now on, and remember nothing that others said."""
        self.generation += 1
        self._deciders = [plugin for plugin in plugins.topic_plugins if isinstance(plugin, Decider)]
        self._lists = [plugin for plugin in plugins.topic_plugins if isinstance(plugin, MembersOnly)]
        self._hiding = [plugin for plugin in plugins.topic_plugins if isinstance(plugin, Hiding)]
        self.hides = bool(self._hiding)
        others = [plugin for plugin in plugins.topic_plugins if not isinstance(plugin, Decider | MembersOnly)]
        self._topic = [(plugin, self._topic_asker(plugin)) for plugin in others]
        self._immediate = all(declared(plugin, "topic_filtering", "immediate", _IMMEDIATE) for plugin, _ in self._topic)
        cacheable = all(getattr(plugin, "cacheable", True) for plugin, _ in self._topic)
        self._keep = self._acl_cache_seconds
        self.keeps = cacheable and self._keep > 0
        self.authentication.use(plugins.auth_plugins, keep_sessions=bool(self._topic))
        self._see_whom_to_ask()

    def rules_changed(self) -> None:
        """A `Decider` has other rules, or there are other users: whatever was answered by the old ones is asked again, also
        about who is being let in at this moment."""
        self.generation += 1
        self.authentication.ask_again()
        self._see_whom_to_ask()

    def _see_whom_to_ask(self) -> None:
        self.unruled = not self._topic and all(decider.unused for decider in self._deciders)
        self.openness.open = self.unruled and not self._lists

    def close(self) -> None:
        """Give the threads back. What still runs on one ends with the process at the latest."""
        self.authentication.close()
        self._questions.close()

    # --- refusals --------------------------------------------------------------------------------------------------

    def log_refusal(self, session: SessionInfo, action: str, topic: str, why: str = "") -> None:
        """Tell whoever writes the rules that a client was refused something, and by which of them; of a flood a bounded part.

        ``why`` stands where it was no plugin that refused.
        """
        asked = self.stand_ins.real(action, topic.split("/", 2)[-1] if topic.startswith("$share/") else topic)
        refused = session.why_refused(action, str(asked))
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
        if self.openness.open or topic.startswith(OWN):
            return True
        if topic.startswith("$"):
            real = self.stand_ins.real(action, topic)
            if isinstance(real, bool):
                return real
            topic = real
        if session.generation != self.generation:
            session.forget_answers(self.generation)
        found = session.kept(action, topic, time.monotonic()) if self.keeps else None
        if found is None:
            return self._asked_now(session, action, topic)
        for members in found.lists:
            if not (known := members.known(session.identity.user_key, action, topic)):
                return known
        return found.allowed

    def hidden(self, session: SessionInfo, topic: str) -> int:
        """The last sequence of a topic that a client is not given, of which `cached` has just said that it may receive it."""
        for plugin in self._hiding:
            if plugin.governs(topic):
                return plugin.hidden_now(session.identity.user_key, topic)
        return 0

    def _asked_now(self, session: SessionInfo, action: str, topic: str) -> bool | None:
        """The same, where no answer is kept."""
        for members in self._lists_of(topic):
            if not (known := members.known(session.identity.user_key, action, topic)):
                return known
        if self._immediate:  # also where there are no rules
            return self._answer_now(session, action, topic)
        return session.take_held(action, topic)

    def _lists_of(self, topic: str) -> Sequence[MembersOnly]:
        """Whose members alone may do anything with a topic. Nearly always nobody's."""
        return [members for members in self._lists if members.governs(topic)] if self._lists else ()

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
        return Verdict(False, None, session.why_refused(action, topic) or "a plugin failed")

    async def settle(self, session: SessionInfo, action: str, topic: str) -> None:
        """Ask until the plugins have answered, less and less often while they fail; the next `cached` has the answer."""
        topic, delay = str(self.stand_ins.real(action, topic)), 0.5
        while (answer := await self._ask(session, action, topic)) is None:
            await asyncio.sleep(delay)
            delay = min(delay * 2, _RETRY)
        session.hold(action, topic, answer)

    async def _ask(self, session: SessionInfo, action: str, topic: str) -> bool | None:
        if not self.keeps:
            return await self._answer(session, action, topic)
        asked = session.asked
        if asked is None:
            asked = session.asked = {}
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
        for members in self._lists_of(topic):
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
                    if not finish(plugin.topic_filtering(session=session.session, topic=topic, action=asked)):
                        return self._settled(session, action, topic, False, f"{type(plugin).__name__} said no")
                except Exception as error:  # noqa: BLE001 - as above
                    self._log_failed(plugin, session, action, topic, error)
                    return False
        return self._settled(session, action, topic, True, "")

    def _settled(
        self, session: SessionInfo, action: str, topic: str, allowed: bool, refused: str, *, keep: bool = True
    ) -> bool:
        if not allowed:
            session.note_refusal(action, topic, refused)
        if keep and self.keeps:
            session.keep(action, topic, allowed, time.monotonic() + self._keep, self._lists_of(topic))
        return allowed

    @staticmethod
    def _log_failed(plugin: object, session: SessionInfo, action: str, topic: str, error: BaseException) -> None:
        name = type(plugin).__name__
        logger.error(
            "client %r: no answer whether it may %s %r: %s failed: %s",
            *(session.client_id, action, topic, name, blame(error)),
            extra={"client": session.client_id, "topic": topic, "plugin": name},
        )

    def _topic_asker(self, plugin: Any) -> Asker:
        """How to ask a plugin about a topic: with the time limit, and by turns on a thread if it blocks."""
        function = plugin.topic_filtering
        if not declared(plugin, "topic_filtering", "blocking", BLOCKING):
            return limited(function, self._timeout)

        async def ask(session: LightSession, topic: str, action: Action) -> Any:
            address, user = session.remote_address or "", session.username or ""
            call = lambda: finish(function(session=session, topic=topic, action=action))  # noqa: E731
            return await self._questions.ask(address, user, call, login=False)

        return ask
