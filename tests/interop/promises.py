"""What every client library must see. A test file extends `Promises` and says how its library is started."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, ClassVar

import pytest

from tests.interop.conftest import Site
from tests.interop.driver import Opens, opener


class Promises:
    """One library. ``command`` starts its driver, ``ways`` are the transports and versions that it is tried over."""

    command: ClassVar[list[str]]
    qualities: ClassVar[tuple[int, ...]] = (0, 1, 2)
    """The QoS that the library speaks."""

    def quality(self, payload: bytes) -> int:
        """The QoS, above 0, that a numbered message is sent with."""
        return self.qualities[1 + int(payload) % (len(self.qualities) - 1)]

    def by_quality(self, payloads: list[bytes]) -> dict[int, list[bytes]]:
        """Numbered messages apart by QoS: a receiver may show a QoS 2 message at its PUBREL, behind later QoS 1."""
        found: dict[int, list[bytes]] = {}
        for payload in payloads:
            found.setdefault(self.quality(payload), []).append(payload)
        return found

    @pytest.fixture
    def way(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        chosen: dict[str, Any] = request.param
        return chosen

    @pytest.fixture
    def open_(self, shared: Site, way: dict[str, Any]) -> Opens:
        return opener(shared, self.command, **way)

    def test_each_qos_arrives_as_the_lower_of_both(self, open_: Opens, name: str) -> None:
        with open_(f"{name}-pub") as pub, open_(f"{name}-sub") as sub:
            for asked in self.qualities:
                assert sub.subscribe(f"{name}/{asked}", asked) == asked
                for sent in self.qualities:
                    pub.publish(f"{name}/{asked}", b"%d" % sent, sent)
                    got = sub.message()
                    assert (got["payload"], got["qos"], got["retain"]) == (b"%d" % sent, min(sent, asked), False)

    def test_any_bytes_of_any_size(self, open_: Opens, name: str) -> None:
        with open_(f"{name}-pub") as pub, open_(f"{name}-sub") as sub:
            sub.subscribe(name)
            for payload in (b"", bytes(range(256)), b"x" * 70_000, bytes(1_000_000)):
                pub.publish(name, payload)
                assert sub.message()["payload"] == payload

    def test_a_durable_session_catches_up_in_order(self, open_: Opens, name: str) -> None:
        with open_(f"{name}-sub", clean=False, present=False) as sub:
            sub.subscribe(name, max(self.qualities))
            sub.leave()
        sent = [b"%d" % number for number in range(300)]
        with open_(f"{name}-pub") as pub:
            for payload in sent:
                pub.send(name, payload, self.quality(payload))
            for payload in sent:
                pub.published(payload)
            with open_(f"{name}-sub", clean=False, present=True) as sub:
                pub.publish(name, b"end", max(self.qualities))
                got = sub.payloads_until(b"end")
        assert self.by_quality(got) == self.by_quality(sent)

    def test_a_retained_message_is_kept_and_cleared(self, open_: Opens, name: str) -> None:
        with open_(f"{name}-pub") as pub, open_(f"{name}-sub") as sub:
            pub.publish(name, b"21.5", retain=True)
            sub.subscribe(name)
            first = sub.message()
            assert (first["payload"], first["retain"]) == (b"21.5", True)
            pub.publish(name, b"", retain=True)
            assert sub.message()["payload"] == b""
            with open_(f"{name}-late") as late:
                late.subscribe(name)
                pub.publish(name, b"now")
                assert late.message()["payload"] == b"now"

    def test_the_will_of_a_killed_client_comes(self, open_: Opens, name: str) -> None:
        will = {"topic": f"{name}/will", "payload": b"gone".hex(), "qos": 1, "retain": False}
        with open_(f"{name}-watch") as watching, open_(f"{name}-dies", will=will) as dying:
            watching.subscribe(f"{name}/will")
            dying.program.kill()
            assert watching.message()["payload"] == b"gone"

    def test_a_shared_subscription_gives_each_message_to_one(self, open_: Opens, name: str) -> None:
        with open_(f"{name}-pub") as pub, open_(f"{name}-1") as one, open_(f"{name}-2") as two:
            for member in (one, two):
                member.subscribe(f"$share/group/{name}")
                member.subscribe(f"{name}/end")
            sent = {b"%d" % number for number in range(40)}
            for payload in sent:
                pub.publish(name, payload)
            pub.publish(f"{name}/end", b"end")
            shares = [member.payloads_until(b"end") for member in (one, two)]
            assert sorted(shares[0] + shares[1]) == sorted(sent)

    def test_nothing_acknowledged_is_lost_when_the_broker_is_killed(
        self, crashing: AbstractContextManager[Site], way: dict[str, Any]
    ) -> None:
        """Both ends reconnect by themselves; every publish is acknowledged in the end, and what is QoS 2 comes once."""
        with crashing as site:
            open_ = opener(site, self.command, **way)
            with open_("pub", clean=False) as pub, open_("sub", clean=False) as sub:
                sub.subscribe("home/#", max(self.qualities))
                sent = [b"%d" % number for number in range(400)]
                for number, payload in enumerate(sent):
                    pub.send("home/a", payload, self.quality(payload))
                    if number in (100, 250):
                        pub.published(sent[number - 90])
                        site.broker.kill()
                        pub.event("lost")
                        sub.event("lost")
                        site.broker.start()
                        assert sub.connected()
                        assert pub.connected()
                for payload in sent:
                    if payload not in (sent[10], sent[160]):
                        pub.published(payload)
                pub.publish("home/a", b"end", max(self.qualities))
                got = sub.payloads_until(b"end")
        assert set(got) == set(sent)
        got_by, sent_by = self.by_quality(got), self.by_quality(sent)
        assert got_by.get(2) == sent_by.get(2), "each QoS 2 message comes once, in order"
        assert list(dict.fromkeys(got_by[1])) == sent_by[1]

    def test_properties_arrive_as_they_were_sent(self, open_: Opens, name: str, way: dict[str, Any]) -> None:
        if way["version"] != 5:
            return
        sent = {"content_type": "text/plain", "response_topic": "answers/here", "correlation": "00ff", "expiry": 1000}
        user = [["b", "1"], ["b", "2"], ["a", "3"]]
        with open_(f"{name}-pub") as pub, open_(f"{name}-sub") as sub:
            sub.subscribe(name)
            pub.publish(name, b"x", **sent, user=user)
            got = sub.message()["properties"]
        assert 990 < got.pop("expiry") <= 1000
        assert got == {**{key: value for key, value in sent.items() if key != "expiry"}, "user": user}

    def test_no_local(self, open_: Opens, name: str, way: dict[str, Any]) -> None:
        if way["version"] != 5:
            return
        with open_(f"{name}-me") as me, open_(f"{name}-other") as other:
            me.subscribe(name, no_local=True)
            me.publish(name, b"mine")
            other.publish(name, b"yours")
            assert me.message()["payload"] == b"yours"
