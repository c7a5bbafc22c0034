"""Who a client is, and what it may do."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from amqtt.contexts import Action
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from broker.access.access_control import AccessControl
from broker.access.identity import AuthRequest, Identity
from broker.access.rule_set import HISTORY, SEARCH
from broker.access.session_info import SessionInfo
from tests.plugin_host.third_party import OwnTopics, Slow
from tests.support.until import until

ANONYMOUS = "amqtt.plugins.authentication.AnonymousAuthPlugin"
FILE = "amqtt.plugins.authentication.FileAuthPlugin"
ACL = "amqtt.plugins.topic_checking.TopicAccessControlListPlugin"
TABOO = "amqtt.plugins.topic_checking.TopicTabooPlugin"
OWN = "tests.plugin_host.third_party."


def request(client_id: str = "phone", username: str | None = None, password: str | None = None, **more: Any) -> AuthRequest:
    return AuthRequest(client_id, username, None if password is None else password.encode(), peer="10.0.0.1:5", **more)


def info(identity: Identity | None, asked: AuthRequest | None = None) -> SessionInfo:
    assert identity is not None
    return SessionInfo(identity, asked or request())


@pytest.fixture(scope="session")
def passwords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("auth") / "passwords"
    path.write_text(f"alice:{PasswordHash((Argon2Hasher(time_cost=1, memory_cost=64),)).hash('wonderland')}\n")
    return path


class Gatekeeper:
    """An auth plugin that takes its time."""

    def __init__(self, answer: bool) -> None:
        self.asked, self.gate = asyncio.Event(), asyncio.Event()
        self.answer = answer

    async def authenticate(self, *, session: object) -> bool:
        answer = self.answer
        self.asked.set()
        await self.gate.wait()
        return answer


class Cautious:
    """A topic plugin that answers on the spot: no, or not at all."""

    auth_plugins = ()
    immediate = True

    def __init__(self, error: Exception | None = None) -> None:
        self.topic_plugins = [self]
        self._error = error

    async def topic_filtering(self, *, session: object, topic: str, action: object) -> bool:
        if self._error is not None:
            raise self._error
        return False


class TestIdentity:
    async def test_nobody_gets_in_without_an_auth_plugin(
        self, access_of: Callable[..., AccessControl], caplog: pytest.LogCaptureFixture
    ) -> None:
        access = access_of({})
        assert await access.authentication.authenticate(request(username="alice", password="x")) is None
        assert "no auth plugin is configured" in caplog.text

    async def test_anonymous(self, access_of: Callable[..., AccessControl]) -> None:
        access = access_of({ANONYMOUS: {}})
        assert await access.authentication.authenticate(request()) == Identity("c/phone", None, True)

    async def test_a_user_name_that_nobody_verified_counts_for_nothing(self, access_of: Callable[..., AccessControl]) -> None:
        access = access_of({ANONYMOUS: {"allow_anonymous": True}, TABOO: {}})
        asked = request(username="admin", password="guess")
        identity = await access.authentication.authenticate(asked)
        assert identity == Identity("c/phone", None, True)
        # TopicTabooPlugin lets a user called admin do everything
        assert not await access.allowed(info(identity, asked), Action.PUBLISH, "top-secret")

    async def test_not_even_where_anonymous_wants_a_name(self, access_of: Callable[..., AccessControl]) -> None:
        access = access_of({ANONYMOUS: {"allow_anonymous": False}})
        assert await access.authentication.authenticate(request()) is None
        assert await access.authentication.authenticate(request(username="alice")) == Identity("c/phone", None, True)

    async def test_a_password_from_the_file(self, access_of: Callable[..., AccessControl], passwords: Path) -> None:
        access = access_of({FILE: {"password_file": str(passwords)}})
        assert await access.authentication.authenticate(request(username="alice", password="wonderland")) == Identity(
            "u/alice", "alice", False
        )
        assert await access.authentication.authenticate(request(username="alice", password="looking-glass")) is None
        assert await access.authentication.authenticate(request(username="bob", password="wonderland")) is None
        assert await access.authentication.authenticate(request()) is None

    async def test_file_and_anonymous_together(self, access_of: Callable[..., AccessControl], passwords: Path) -> None:
        access = access_of({ANONYMOUS: {}, FILE: {"password_file": str(passwords)}})
        assert await access.authentication.authenticate(request(username="alice", password="wonderland")) == Identity(
            "u/alice", "alice", False
        )
        assert await access.authentication.authenticate(request()) == Identity("c/phone", None, True)
        assert await access.authentication.authenticate(request(username="alice", password="wrong")) is None

    async def test_one_no_is_enough(self, access_of: Callable[..., AccessControl]) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "Doorman": {}})
        asked = request(username="alice", password="ecila")
        asked.peer = "10.0.0.2:5"
        assert await access.authentication.authenticate(asked) is None

    async def test_a_plugin_may_say_that_it_verifies_nothing(self, access_of: Callable[..., AccessControl]) -> None:
        access = access_of({OWN + "Doorman": {}})
        assert await access.authentication.authenticate(request(username="alice")) == Identity("c/phone", None, True)

    async def test_a_password_that_is_no_text_is_refused_quietly(
        self, access_of: Callable[..., AccessControl], passwords: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        access = access_of({FILE: {"password_file": str(passwords)}})
        asked = AuthRequest("phone", "alice", b"\xff\xfe")
        assert await access.authentication.authenticate(asked) is None
        assert "FileAuthPlugin failed: UnicodeEncodeError" in caplog.text

    async def test_the_password_is_forgotten_unless_a_topic_plugin_may_want_it(
        self, access_of: Callable[..., AccessControl]
    ) -> None:
        asked = request(username="alice", password="ecila")
        identity = await access_of({OWN + "Tokens": {}}).authentication.authenticate(asked)
        assert asked.password is None
        assert info(identity, asked).session.password is None
        asked = request(username="alice", password="ecila")
        identity = await access_of({OWN + "Tokens": {}, TABOO: {}}).authentication.authenticate(asked)
        assert info(identity, asked).session.password == "ecila"

    async def test_and_where_anybody_is_let_in(self, access_of: Callable[..., AccessControl]) -> None:
        asked = request(username="alice", password="ecila")
        access = access_of({ANONYMOUS: {"allow_anonymous": True}})
        assert access.authentication.authenticate_now(asked) == Identity("c/phone", None, True)
        assert asked.password is None

    async def test_who_is_being_let_in_is_asked_about_again_where_plugins_change(
        self, access_of: Callable[..., AccessControl]
    ) -> None:
        authentication, old, new = access_of({ANONYMOUS: {}}).authentication, Gatekeeper(True), Gatekeeper(False)
        authentication.use([old], keep_sessions=False)
        letting_in = asyncio.create_task(authentication.authenticate(request()))
        await old.asked.wait()
        authentication.use([new], keep_sessions=False)
        for plugin in (old, new):
            plugin.gate.set()
        assert await letting_in is None

    async def test_and_where_rules_or_users_change(self, access_of: Callable[..., AccessControl]) -> None:
        """As where it is shut out at this moment."""
        access, plugin = access_of({ANONYMOUS: {}}), Gatekeeper(True)
        access.authentication.use([plugin], keep_sessions=False)
        letting_in = asyncio.create_task(access.authentication.authenticate(request()))
        await plugin.asked.wait()
        plugin.answer = False
        access.rules_changed()
        plugin.gate.set()
        assert await letting_in is None

    async def test_what_an_auth_plugin_left_on_the_session_is_there_later(
        self, access_of: Callable[..., AccessControl]
    ) -> None:
        asked = request(username="alice", password="ecila")
        identity = await access_of({OWN + "Tokens": {}}).authentication.authenticate(asked)
        session = info(identity, asked).session
        assert session.attributes == {"tokens.seen": True}
        assert (session.username, session.is_anonymous, session.user_key) == ("alice", False, "u/alice")


class TestFailures:
    async def test_a_plugin_that_raises_refuses_and_gives_nothing_away(
        self, access_of: Callable[..., AccessControl], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        access = access_of({OWN + "Broken": {}, ANONYMOUS: {}})
        assert await access.authentication.authenticate(request(username="alice", password="s3cret")) is None
        assert "Broken failed: ValueError at third_party.py:" in caplog.text
        assert "s3cret" not in caplog.text

    async def test_a_plugin_that_takes_too_long_refuses(
        self, access_of: Callable[..., AccessControl], caplog: pytest.LogCaptureFixture
    ) -> None:
        access = access_of({OWN + "Stuck": {}}, timeout=0.05)
        assert await access.authentication.authenticate(request()) is None
        assert "Stuck failed: TimeoutError" in caplog.text

    async def test_blocking_plugins_do_not_block_the_loop(self, access_of: Callable[..., AccessControl]) -> None:
        access = access_of({OWN + "Slow": {}})
        Slow.threads.clear()
        found = await asyncio.gather(*(access.authentication.authenticate(request(f"c{n}", username="u")) for n in range(4)))
        assert [identity and identity.user_key for identity in found] == ["u/u"] * 4
        assert Slow.threads
        assert threading.get_ident() not in Slow.threads

    async def test_file_passwords_are_hashed_on_a_thread(
        self, access_of: Callable[..., AccessControl], passwords: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import threading

        used = []
        verify = PasswordHash.verify

        def verified(*values: Any) -> bool:
            used.append(threading.current_thread().name)
            return verify(*values)

        monkeypatch.setattr(PasswordHash, "verify", verified)
        await access_of({FILE: {"password_file": str(passwords)}}).authentication.authenticate(
            request(username="alice", password="wonderland")
        )
        assert used
        assert all(name.startswith("auth") for name in used)


async def user(access: AccessControl, name: str = "alice") -> SessionInfo:
    asked = request(username=name, password=name[::-1])
    return info(await access.authentication.authenticate(asked), asked)


class TestTopics:
    async def test_without_a_topic_plugin_all_is_open(self, access_of: Callable[..., AccessControl]) -> None:
        access = access_of({ANONYMOUS: {}})
        session = info(await access.authentication.authenticate(request()))
        assert access.openness.open
        assert access.cached(session, Action.PUBLISH, "a") is True
        assert session.seen is None  # nobody asked, so no amqtt session was made

    async def test_amqtts_acl(self, access_of: Callable[..., AccessControl]) -> None:
        acl = {"publish_acl": {"alice": ["alice/#"]}, "acl": {"alice": ["news/+", "alice/#"], "anonymous": ["news/today"]}}
        access = access_of({OWN + "Tokens": {}, ANONYMOUS: {}, ACL: acl})
        alice = await user(access)
        nobody = info(await access.authentication.authenticate(request("guest")), request("guest"))
        expected = {
            (Action.PUBLISH, "alice/x"): True,
            (Action.PUBLISH, "news/today"): False,
            (Action.SUBSCRIBE, "news/today"): True,
            (Action.SUBSCRIBE, "bob/#"): False,
        }
        for (action, topic), allowed in expected.items():
            assert await access.allowed(alice, action, topic) is allowed, (action, topic)
        assert await access.allowed(nobody, Action.SUBSCRIBE, "news/today")
        assert not await access.allowed(nobody, Action.SUBSCRIBE, "alice/x")

    @pytest.mark.parametrize("action", list(Action))
    async def test_every_action_is_asked_about(self, access_of: Callable[..., AccessControl], action: Any) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "OwnTopics": {"shared": ["news"]}})
        alice = await user(access)
        assert [await access.allowed(alice, action, topic) for topic in ("alice/x", "bob/x", "news")] == [True, False, True]
        assert {asked[1] for asked in OwnTopics.asked} == {str(action)}

    async def test_amqtts_acl_is_answered_on_the_spot(self, access_of: Callable[..., AccessControl]) -> None:
        access = access_of({OWN + "Tokens": {}, ACL: {"publish_acl": {"alice": ["a"]}}})
        alice = await user(access)
        assert access.cached(alice, Action.PUBLISH, "a") is True
        assert access.cached(alice, Action.PUBLISH, "b") is False

    async def test_all_plugins_must_agree_and_none_is_a_no(self, access_of: Callable[..., AccessControl]) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "OwnTopics": {}, OWN + "Undecided": {}})
        assert not await access.allowed(await user(access), Action.PUBLISH, "alice/x")

    async def test_an_answer_is_kept(self, access_of: Callable[..., AccessControl]) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "OwnTopics": {}})
        alice = await user(access)
        assert access.cached(alice, Action.PUBLISH, "alice/x") is None
        assert await access.allowed(alice, Action.PUBLISH, "alice/x")
        assert not await access.allowed(alice, Action.PUBLISH, "bob/x")
        assert access.cached(alice, Action.PUBLISH, "alice/x") is True
        assert access.cached(alice, Action.PUBLISH, "bob/x") is False
        assert access.cached(alice, Action.SUBSCRIBE, "alice/x") is None
        alice.forget_answers()
        assert access.cached(alice, Action.PUBLISH, "alice/x") is None
        assert OwnTopics.asked == [("alice", "publish", "alice/x"), ("alice", "publish", "bob/x")]

    async def test_but_not_for_ever(self, access_of: Callable[..., AccessControl], monkeypatch: pytest.MonkeyPatch) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "OwnTopics": {}}, acl_cache_seconds=60)
        alice = await user(access)
        assert await access.allowed(alice, Action.PUBLISH, "alice/x")
        later = time.monotonic() + 61
        monkeypatch.setattr("broker.access.access_control.time.monotonic", lambda: later)
        assert access.cached(alice, Action.PUBLISH, "alice/x") is None

    async def test_and_not_for_another_connection(self, access_of: Callable[..., AccessControl]) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "OwnTopics": {}})
        assert await access.allowed(await user(access), Action.PUBLISH, "alice/x")
        assert access.cached(await user(access), Action.PUBLISH, "alice/x") is None

    async def test_a_plugin_may_want_to_be_asked_each_time(self, access_of: Callable[..., AccessControl]) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "Moody": {}})
        alice = await user(access)
        for _ in range(3):
            assert await access.allowed(alice, Action.PUBLISH, "alice/x")
        assert len(OwnTopics.asked) == 3

    async def test_the_same_question_is_asked_once_at_a_time(self, access_of: Callable[..., AccessControl]) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "OwnTopics": {}})
        alice = await user(access)
        OwnTopics.gate = asyncio.Event()
        tasks = [asyncio.create_task(access.allowed(alice, Action.RECEIVE, "alice/x")) for _ in range(5)]
        await asyncio.sleep(0)
        tasks[0].cancel()  # one that gives up takes nobody with it
        await asyncio.sleep(0)
        OwnTopics.gate.set()
        assert await asyncio.gather(*tasks[1:]) == [True] * 4
        assert len(OwnTopics.asked) == 1

    @pytest.mark.parametrize("change", ["rules", "rules, and nothing is asked", "user"])
    async def test_an_answer_that_was_asked_for_before_a_change_does_not_count(
        self, access_of: Callable[..., AccessControl], change: str
    ) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "OwnTopics": {}})
        alice = await user(access)
        OwnTopics.gate = asyncio.Event()
        asking = asyncio.create_task(access.allowed(alice, Action.RECEIVE, "news"))
        await until(lambda: OwnTopics.asked)
        if change == "user":
            alice.forget_answers()  # the client authenticated again
        else:
            access.rules_changed()
        if "nothing" not in change:
            assert access.cached(alice, Action.RECEIVE, "other") is None
        OwnTopics.gate.set()
        assert not await asking
        assert len(OwnTopics.asked) == 2

    async def test_an_answer_of_other_rules_counts_for_nobody_who_holds_it(
        self, access_of: Callable[..., AccessControl]
    ) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "OwnTopics": {}})
        alice = await user(access)
        assert await access.allowed(alice, Action.RECEIVE, "alice/x")
        await access.settle(alice, Action.RECEIVE, "alice/y")
        access.rules_changed()
        assert access.cached(alice, Action.RECEIVE, "alice/x") is None
        assert access.cached(alice, Action.RECEIVE, "alice/y") is None

    async def test_what_the_plugins_before_a_reload_said_counts_for_nothing(
        self, access_of: Callable[..., AccessControl]
    ) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "OwnTopics": {}})
        alice = await user(access)
        assert await access.allowed(alice, Action.RECEIVE, "alice/x")
        access.use(Cautious())
        assert access.cached(alice, Action.RECEIVE, "alice/x") is False

    async def test_a_failure_on_the_spot_is_a_no_too(
        self, access_of: Callable[..., AccessControl], caplog: pytest.LogCaptureFixture
    ) -> None:
        access = access_of({OWN + "Tokens": {}})
        alice = await user(access)
        access.use(Cautious(ValueError("no such table")))
        assert access.cached(alice, Action.RECEIVE, "alice/x") is False
        assert "no answer whether it may receive 'alice/x': Cautious failed: ValueError" in caplog.text

    @pytest.mark.parametrize("action", [HISTORY, SEARCH])
    async def test_amqtts_plugins_are_asked_about_history_and_search_as_about_receiving(
        self, access_of: Callable[..., AccessControl], action: str
    ) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "OwnTopics": {}})
        alice = await user(access)
        assert [await access.allowed(alice, action, topic) for topic in ("alice/x", "bob/x")] == [True, False]
        assert [asked[1:] for asked in OwnTopics.asked] == [
            ("subscribe", "alice/x"),
            ("receive", "alice/x"),
            ("subscribe", "bob/x"),
        ]

    async def test_what_was_used_last_stays_when_the_cache_is_full(self, access_of: Callable[..., AccessControl]) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "OwnTopics": {}})
        alice = await user(access)
        for number in range(400):
            await access.allowed(alice, Action.PUBLISH, f"alice/{number}")
            access.cached(alice, Action.PUBLISH, "alice/0")
        assert access.cached(alice, Action.PUBLISH, "alice/0") is True
        assert access.cached(alice, Action.PUBLISH, "alice/1") is None
        assert access.cached(alice, Action.PUBLISH, "alice/399") is True
        assert len(alice._answers or ()) == 256

    async def test_a_failure_is_a_no_that_is_not_kept(
        self, access_of: Callable[..., AccessControl], caplog: pytest.LogCaptureFixture
    ) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "OwnTopics": {}})
        alice = await user(access)
        OwnTopics.failures = 1
        assert not await access.allowed(alice, Action.PUBLISH, "alice/x")
        assert "no answer whether it may publish 'alice/x': OwnTopics failed: ConnectionError" in caplog.text
        assert await access.allowed(alice, Action.PUBLISH, "alice/x")

    async def test_settle_asks_until_there_is_an_answer(
        self, access_of: Callable[..., AccessControl], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waited = []

        async def no_wait(seconds: float) -> None:
            waited.append(seconds)

        monkeypatch.setattr("broker.access.access_control.asyncio.sleep", no_wait)
        access = access_of({OWN + "Tokens": {}, OWN + "OwnTopics": {}})
        alice = await user(access)
        OwnTopics.failures = 9
        await access.settle(alice, Action.RECEIVE, "alice/x")
        assert access.cached(alice, Action.RECEIVE, "alice/x") is True
        assert waited == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]

    async def test_settle_holds_an_answer_that_is_not_to_be_kept_for_one_look(
        self, access_of: Callable[..., AccessControl]
    ) -> None:
        access = access_of({OWN + "Tokens": {}, OWN + "Moody": {}})
        alice = await user(access)
        await access.settle(alice, Action.RECEIVE, "bob/x")
        assert access.cached(alice, Action.RECEIVE, "alice/x") is None
        assert access.cached(alice, Action.RECEIVE, "bob/x") is False
        assert access.cached(alice, Action.RECEIVE, "bob/x") is None


async def test_an_idle_connection_costs_next_to_nothing(access_of: Callable[..., AccessControl]) -> None:
    access = access_of({ANONYMOUS: {}})
    asked = request()
    session = info(await access.authentication.authenticate(asked), asked)
    assert sum(map(sys.getsizeof, (session, session.request, session.identity))) < 512
    session.session.attributes["x"] = 1  # and with an amqtt session
    assert sys.getsizeof(session.session) + sys.getsizeof(session.session.__dict__) < 1024
