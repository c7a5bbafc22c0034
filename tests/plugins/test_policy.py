"""What is kept of a topic, and where new devices start."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from broker.hooks import Group
from plugins.persistence import PersistencePlugin
from plugins.policy import Policies, Policy
from plugins.sync import check_start, position
from storage.memory import MemoryStorage
from storage.records import Append, Message


class TestPolicies:
    def test_without_any_all_but_dollar_topics_are_kept(self) -> None:
        policies = Policies([])
        assert [policies[topic] for topic in ("a", "a/b", "/", "$SYS/x", "$own")] == [
            "sync",
            "sync",
            "sync",
            "none",
            "none",
        ]

    def test_the_first_that_matches_wins(self) -> None:
        policies = Policies(
            [Policy("a/secret/#", "none"), Policy("a/#", "store"), Policy("a/b", "none"), Policy("+/c", "sync")]
        )
        told = {topic: policies[topic] for topic in ("a", "a/b", "a/secret", "a/secret/x", "x/c", "x")}
        assert told == {"a": "store", "a/b": "store", "a/secret": "none", "a/secret/x": "none", "x/c": "sync", "x": "sync"}

    def test_a_dollar_topic_must_be_named(self) -> None:
        policies = Policies([Policy("#", "store"), Policy("$audit/#", "sync")])
        assert policies["$SYS/x"] == "none"
        assert policies["$audit/x"] == "sync"
        assert policies["x"] == "store"

    def test_the_answers_kept_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("plugins.policy._CACHED", 100)
        policies = Policies([Policy("a/#", "none")])
        for number in range(1000):
            assert policies[f"a/{number}"] == "none"
            assert policies[f"b/{number}"] == "sync"
            assert len(policies) <= 100

    @pytest.mark.parametrize(("filter", "mode"), [("", "none"), ("a/#/b", "none"), ("a+", "none"), ("a", "all")])
    def test_what_is_wrong_is_refused(self, filter: Any, mode: Any) -> None:
        with pytest.raises(ValueError, match="policies: "):
            Policy(filter, mode)


@dataclasses.dataclass
class Context:
    config: PersistencePlugin.Config


class TestPersistence:
    def append(self, topic: str, retain: bool = False) -> Append:
        return Append(Message(1, topic, "u/a", "x", 0, 1, b"p"), recipients=("u/b",), retain=retain)

    def test_a_policy_takes_away_what_is_not_wanted(self) -> None:
        plugin = PersistencePlugin(
            Context(PersistencePlugin.Config("memory://", policies=[Policy("t/#", "store"), Policy("n/#", "none")]))
        )
        topics = ["a", "t/1", "t/1", "n/1", "$SYS/x", "a", "a"]
        appends = [self.append(topic, retain=topic == "n/1") for topic in topics]
        plugin.before_ack(Group(list(appends), appends))
        assert [(append.store, tuple(append.recipients), append.retain) for append in appends] == [
            (True, ("u/b",), False),
            (True, (), False),
            (True, (), False),
            (False, (), True),
            (False, (), False),
            (True, ("u/b",), False),
            (True, ("u/b",), False),
        ]

    async def test_it_provides_the_storage_that_the_url_names(self) -> None:
        assert isinstance(PersistencePlugin(Context(PersistencePlugin.Config("memory://"))).storage(), MemoryStorage)

    @pytest.mark.parametrize(("given", "bytes_"), [(4096, 4096), ("1 MiB", 1 << 20), ("0", 0)])
    def test_the_low_water_mark(self, given: Any, bytes_: Any) -> None:
        assert PersistencePlugin.Config(low_water_bytes=given).low_water_bytes == bytes_

    @pytest.mark.parametrize("given", [-1, "much", "0.3", 1.5])
    def test_a_bad_low_water_mark(self, given: Any) -> None:
        with pytest.raises(ValueError, match=f"^low_water_bytes {given!r}: must be a size in bytes"):
            PersistencePlugin.Config(low_water_bytes=given)


class TestStart:
    @pytest.mark.parametrize(
        "start", ["latest", "earliest", "last:1", "last:500", "since:0s", "since:90s", "since:5min", "since:24h"]
    )
    def test_good(self, start: Any) -> None:
        assert check_start(start) == start

    @pytest.mark.parametrize(
        "start", ["", "Latest", "last", "last:", "last:0", "last:-1", "last:x", "since:", "since:5", "since:5w", "5"]
    )
    def test_bad(self, start: Any) -> None:
        with pytest.raises(ValueError, match=r"must be latest, earliest, last:<n> or since:<duration>"):
            check_start(start)

    @pytest.mark.parametrize(
        ("start", "now", "told"),
        [
            ("latest", 5, "latest"),
            ("last:7", 5, "last:7"),
            ("since:90s", 100_000, "since:10000"),
            ("since:1h", 3_600_001, "since:1"),
            ("since:7d", 5, "since:0"),
        ],
    )
    def test_a_duration_reaches_back_from_now(self, start: Any, now: Any, told: Any) -> None:
        assert position(start, now) == told
