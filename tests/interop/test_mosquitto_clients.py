"""mosquitto_pub, mosquitto_sub and mosquitto_rr (Debian: mosquitto-clients), in both versions, over TCP and TLS."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.interop.conftest import Site
from tests.interop.programs import Program, needs, ok, run
from tests.support.until import wait_until

pytestmark = needs("mosquitto_pub", "Debian's mosquitto-clients")


@pytest.fixture(params=["tcp", "tls"])
def transport(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(params=["mqttv311", "mqttv5"])
def version(request: pytest.FixtureRequest) -> str:
    number: str = request.param
    return number


def where(site: Site, transport: str = "tcp") -> list[str]:
    secure = ["--cafile", site.cafile] if transport == "tls" else []
    return ["-h", "localhost", "-p", str(site.ports[transport]), *secure]


def publish(site: Site, topic: str, message: str, *options: str, transport: str = "tcp") -> None:
    ok("mosquitto_pub", *where(site, transport), "-t", topic, "-m", message, *options)


@contextmanager
def subscribed(site: Site, *options: str, transport: str = "tcp", shows: str = "%t %q %r %p") -> Iterator[Program]:
    """A mosquitto_sub whose SUBSCRIBE was answered; it prints what it receives after ``MESSAGE``."""
    with Program("mosquitto_sub", *where(site, transport), "-d", "-F", f"MESSAGE {shows}", *options) as program:
        program.line("Subscribed (mid: 1)")
        yield program


def received(program: Program) -> str:
    return program.line("MESSAGE ").removeprefix("MESSAGE ")


@pytest.mark.parametrize("sent", [0, 1, 2])
@pytest.mark.parametrize("asked", [0, 1, 2])
def test_each_qos_arrives_as_the_lower_of_both(shared: Site, name: str, version: str, sent: int, asked: int) -> None:
    with subscribed(shared, "-V", version, "-q", str(asked), "-t", f"{name}/#") as sub:
        publish(shared, f"{name}/a", "hello", "-V", version, "-q", str(sent))
        assert received(sub) == f"{name}/a {min(sent, asked)} 0 hello"


def test_text_of_any_language_and_of_any_size(shared: Site, name: str, version: str, transport: str) -> None:
    with subscribed(shared, "-V", version, "-q", "1", "-t", f"{name}/#", transport=transport) as sub:
        for text in ("grüße 会议 🌊", "x" * 1_000_000):
            ok("mosquitto_pub", *where(shared, transport), "-V", version, "-q", "1", "-t", f"{name}/é", "-s", stdin=text)
            assert received(sub) == f"{name}/é 1 0 {text}"


def test_a_certificate_of_an_unknown_authority_is_not_trusted(shared: Site, name: str) -> None:
    done = run("mosquitto_pub", "-h", "localhost", "-p", str(shared.ports["tls"]), "--tls-use-os-certs", "-t", name, "-m", "x")
    assert done.returncode != 0


def test_a_durable_session_catches_up_in_order(shared: Site, name: str, version: str) -> None:
    durable = ["-V", version, "-i", name, "-c", "-q", "1", "-t", f"{name}/#"]
    if version == "mqttv5":
        durable += ["-x", "3600"]
    with subscribed(shared, *durable) as sub:
        publish(shared, f"{name}/a", "live", "-q", "1")
        assert received(sub).endswith("live")
        sub.stop()
    ok("mosquitto_pub", *where(shared), "-q", "1", "-t", f"{name}/a", "-l", stdin="".join(f"{n}\n" for n in range(300)))
    with subscribed(shared, *durable) as sub:
        assert [received(sub).split()[-1] for _ in range(300)] == [str(n) for n in range(300)]
        publish(shared, f"{name}/a", "end", "-q", "1")
        assert received(sub).endswith("end")


def test_a_retained_message_is_kept_and_cleared(shared: Site, name: str, version: str) -> None:
    publish(shared, name, "21.5", "-q", "1", "-r", "-V", version)
    with subscribed(shared, "-V", version, "-q", "1", "-t", name) as sub:
        assert received(sub) == f"{name} 1 1 21.5"
    ok("mosquitto_pub", *where(shared), "-q", "1", "-r", "-n", "-t", name)
    with subscribed(shared, "-V", version, "-q", "1", "-t", name) as sub:
        publish(shared, name, "now", "-q", "1")
        assert received(sub) == f"{name} 1 0 now"


def test_the_will_of_a_killed_client_comes(shared: Site, name: str, version: str) -> None:
    will = ["--will-topic", f"{name}/will", "--will-payload", "gone", "--will-qos", "1"]
    with subscribed(shared, "-q", "1", "-t", f"{name}/will") as watching:
        with subscribed(shared, "-V", version, "-t", f"{name}/other", *will) as dying:
            dying.kill()
        assert received(watching) == f"{name}/will 1 0 gone"


def test_a_shared_subscription_gives_each_message_to_one(shared: Site, name: str, version: str) -> None:
    options = ("-V", version, "-q", "1", "-t", f"$share/workers/{name}")
    with subscribed(shared, *options) as one, subscribed(shared, *options) as two:
        sent = [str(n) for n in range(40)]
        ok("mosquitto_pub", *where(shared), "-q", "1", "-t", name, "-l", stdin="\n".join(sent) + "\n")
        wait_until(lambda: sum(len(program.seen("MESSAGE ")) for program in (one, two)) == len(sent), "all have come")
        got = [line.split()[-1] for program in (one, two) for line in program.seen("MESSAGE ")]
        assert sorted(got) == sorted(sent)


def test_properties_arrive_as_they_were_sent(shared: Site, name: str) -> None:
    properties = [
        *("-D", "publish", "content-type", "text/plain"),
        *("-D", "publish", "response-topic", "answers/here"),
        *("-D", "publish", "correlation-data", "c1"),
        *("-D", "publish", "message-expiry-interval", "1000"),
        *("-D", "publish", "user-property", "b", "1"),
        *("-D", "publish", "user-property", "a", "2"),
    ]
    with subscribed(shared, "-V", "mqttv5", "-q", "1", "-t", name, shows="%C|%R|%D|%E|%P") as sub:
        publish(shared, name, "x", "-V", "mqttv5", "-q", "1", *properties)
        content, response, correlation, expiry, user = received(sub).split("|")
    assert (content, response, correlation, user) == ("text/plain", "answers/here", "c1", "b:1 a:2")
    assert 990 < int(expiry) <= 1000


def test_an_expired_message_does_not_come(shared: Site, name: str) -> None:
    durable = ["-V", "mqttv5", "-i", name, "-c", "-x", "3600", "-q", "1", "-t", name]
    with subscribed(shared, *durable) as sub:
        sub.stop()
    publish(shared, name, "milk", "-V", "mqttv5", "-q", "1", "-D", "publish", "message-expiry-interval", "1")
    publish(shared, name, "honey", "-V", "mqttv5", "-q", "1")
    time.sleep(1.1)  # not a wait: what is tested is that time passes
    with subscribed(shared, *durable) as sub:
        assert received(sub).endswith("honey")


def test_request_and_response(shared: Site, name: str) -> None:
    with subscribed(shared, "-V", "mqttv5", "-q", "1", "-t", f"{name}/ask") as server:
        options = ("-V", "mqttv5", "-q", "1", "-t", f"{name}/ask", "-e", f"{name}/answer", "-m", "how much?")
        with Program("mosquitto_rr", *where(shared), *options) as asking:
            assert received(server).endswith("how much?")
            publish(shared, f"{name}/answer", "21.5", "-q", "1")
            assert asking.rest() == ["21.5"]


def test_mosquitto_rr_asks_for_history(shared: Site, name: str) -> None:
    publish(shared, name, "first", "-i", f"{name}-me", "-q", "1")
    question = json.dumps({"op": "history", "topic": name})
    topics = ("-t", "$sync/request", "-e", f"$sync/reply/{name}-me")
    answer = json.loads(
        ok("mosquitto_rr", *where(shared), "-V", "mqttv5", "-i", f"{name}-me", "-q", "1", *topics, "-m", question)
    )
    assert [message["payload"] for message in answer["messages"]] == ["first"]


def test_nothing_acknowledged_is_lost_when_the_broker_is_killed(crashing: AbstractContextManager[Site]) -> None:
    """mosquitto_sub reconnects by itself and goes on where it was; mosquitto_pub is started anew for what failed."""
    with crashing as site:
        with subscribed(site, "-i", "laptop", "-c", "-q", "2", "-t", "home/#") as laptop:
            acknowledged = []
            for number in range(60):
                if number in (20, 40):
                    site.broker.restart()
                qos = str(1 + number % 2)
                if run("mosquitto_pub", *where(site), "-q", qos, "-t", "home/a", "-m", str(number)).returncode == 0:
                    acknowledged.append(str(number))
            publish(site, "home/end", "end", "-q", "2")
            got: list[str] = []
            while not got or got[-1] != "end":
                got.append(received(laptop).split()[-1])
        got.pop()
        assert set(acknowledged) <= set(got)
        assert len(acknowledged) >= 57
        ones, twos = ([text for text in got if int(text) % 2 == odd] for odd in (0, 1))
        assert list(dict.fromkeys(ones)) == sorted(set(ones), key=int)
        assert twos == sorted(set(twos), key=int), "each QoS 2 message comes once"
