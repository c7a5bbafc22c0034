"""What a connection keeps of who its client is, and of what it may do. Asked for each message, so compiled (setup.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from broker.access.amqtt_session import LightSession
from broker.access.identity import AuthRequest, Identity, session_of, settle

if TYPE_CHECKING:
    from broker.access.topic_plugins import MembersOnly

_ANSWERS: Final = 256  # per connection: some 40 KB at worst
_REFUSALS: Final = 16  # of which the plugin is known, per connection


class Answer:
    """What was said of an action and a topic. It holds until ``until``, and only while all ``lists`` that the topic is one of
    say yes, too."""

    __slots__ = ("allowed", "lists", "until")

    def __init__(self, allowed: bool, until: float, lists: Sequence[MembersOnly]) -> None:
        self.allowed = allowed
        self.until = until
        self.lists = lists


class SessionInfo:
    """What is kept per connection for plugins: next to nothing until one of them wants to see it. Times are of
    `time.monotonic`."""

    __slots__ = ("_answers", "_held", "_refused", "_session", "asked", "forgotten", "generation", "identity", "request")

    def __init__(self, identity: Identity, request: AuthRequest) -> None:
        self.identity = identity
        self.request = request
        self._session = identity.session
        self._answers: dict[tuple[str, str], Answer] | None = None
        self._refused: dict[tuple[str, str], str] | None = None  # why; of the last refusals
        self._held: tuple[tuple[str, str], bool] | None = None
        self.asked: dict[tuple[str, str], asyncio.Task[bool | None]] | None = None
        """What is being asked, by action and topic."""
        self.generation = -1
        """Of the rules that were asked (`AccessControl.generation`)."""
        self.forgotten = 0
        """How often the answers were forgotten: one that was asked for before does not count."""

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

    def forget_answers(self, generation: int = -1) -> None:
        """Ask the topic plugins anew. ``generation``: of the rules that hold now."""
        self._answers = None
        self._held = None
        self.asked = None
        self.generation = generation
        self.forgotten += 1

    # --- what was answered -------------------------------------------------------------------------------------------

    def kept(self, action: str, topic: str, now: float) -> Answer | None:
        """What was said of the topic, where that still holds."""
        answers = self._answers
        if answers is None:
            return None
        key = (action, topic)
        found = answers.get(key)
        if found is None or found.until <= now:
            return None
        if len(answers) > _ANSWERS // 2:  # only a cache that fills needs to know what was used last
            answers[key] = answers.pop(key)
        return found

    def keep(self, action: str, topic: str, allowed: bool, until: float, lists: Sequence[MembersOnly]) -> None:
        """Remember what was said; what was not used for the longest time makes room."""
        answers = self._answers
        if answers is None:
            answers = self._answers = {}
        key = (action, topic)
        answers.pop(key, None)
        if len(answers) >= _ANSWERS:
            del answers[next(iter(answers))]
        answers[key] = Answer(allowed, until, lists)

    def hold(self, action: str, topic: str, allowed: bool) -> None:
        """Remember what was said for the next `take_held`, whatever else is kept."""
        self._held = ((action, topic), allowed)

    def take_held(self, action: str, topic: str) -> bool | None:
        """What is held of the topic: once."""
        held = self._held
        if held is None or held[0] != (action, topic):
            return None
        self._held = None
        return held[1]

    def note_refusal(self, action: str, topic: str, why: str) -> None:
        """Remember why it was refused: of the last few."""
        known = self._refused
        if known is None:
            known = self._refused = {}
        known.pop((action, topic), None)
        if len(known) >= _REFUSALS:
            del known[next(iter(known))]
        known[action, topic] = why

    def why_refused(self, action: str, topic: str) -> str:
        """Empty where that is not known."""
        return "" if self._refused is None else self._refused.get((action, topic), "")

    # --- what plugins see --------------------------------------------------------------------------------------------

    @property
    def seen(self) -> LightSession | None:
        """The same, or None where nobody has asked for it yet."""
        return self._session


def info_of(user_key: str, client_id: str) -> SessionInfo:
    """Whom topic plugins are asked about for a device that is not connected."""
    name = user_key[2:] if user_key.startswith("u/") else None
    return SessionInfo(Identity(user_key, name, name is None), AuthRequest(client_id, name))
