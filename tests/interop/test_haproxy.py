"""deploy/haproxy.cfg in front of three brokers, by Debian's haproxy: its health checks, its balance, and a node that goes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop.programs import Program, needs
from tests.support.cluster_run import ClusterRun
from tests.support.laws_process import PATIENCE, ROOT, BrokerProcess, broker_process, free_port
from tests.support.mongo_server import MongoServer, new_database
from tests.support.until import wait_until

pytestmark = [needs("haproxy", "Debian's haproxy"), needs("mosquitto_pub", "Debian's mosquitto-clients")]
CONFIG = ROOT / "deploy" / "haproxy.cfg"


class Proxied:
    """Three brokers, each a world of its own, behind one HAProxy whose MQTT is at ``port``."""

    def __init__(self, nodes: list[BrokerProcess], port: int, program: Program) -> None:
        self.nodes = nodes
        self.port = port
        self.program = program

    def publish(self, user: str, topic: str = "a/b") -> int:
        """mosquitto_pub's exit code."""
        command = ["mosquitto_pub", "-p", str(self.port), "-u", user, "-P", user, "-q", "1", "-t", topic, "-m", "hi"]
        return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False).returncode

    def clients(self) -> list[int]:
        """How many publishers each node has seen."""
        return [sum(": connected: " in line and "user-" in line for line in node.log.splitlines()) for node in self.nodes]


class HaProxy:
    """HAProxy with such a configuration in front of three ports. It knows by its own checks who is up."""

    def __init__(self, folder: Path, nodes: Sequence[int], text: str) -> None:
        self.port = free_port()
        for number, node in enumerate(nodes, 1):
            text = text.replace(f'"${{NODE{number}}}:1883"', f"127.0.0.1:{node}")
            text = text.replace(f'"${{NODE{number}}}:8080"', "127.0.0.1:9")
        (folder / "haproxy.cfg").write_text(text)
        environ = {**os.environ, "MQTT_BIND": f"127.0.0.1:{self.port}", "HTTP_BIND": f"127.0.0.1:{free_port()}"}
        self.program = Program("haproxy", "-db", "-f", str(folder / "haproxy.cfg"), env=environ)

    def mark_down(self, node: int) -> None:
        pass

    def mark_up(self, node: int) -> None:
        pass

    def stop(self) -> None:
        self.program.__exit__(None, None, None)


class BehindHaProxy(ClusterRun):
    """The cluster run through it."""

    def _balance(self, folder: Path, seed: int) -> HaProxy:
        return HaProxy(folder, [node.port for node in self.nodes], CONFIG.read_text())


def started(folder: Path, stack: ExitStack, text: str) -> Proxied:
    nodes = [stack.enter_context(broker_process(folder, "memory://", log={"level": "debug"})) for _ in range(3)]
    proxy = HaProxy(folder, [node.port for node in nodes], text)
    stack.callback(proxy.stop)
    proxied = Proxied(nodes, proxy.port, proxy.program)
    wait_until(lambda: proxied.publish("user-0") == 0, "the proxy lets clients through")
    return proxied


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Proxied]:
    with ExitStack() as stack:
        yield started(tmp_path, stack, CONFIG.read_text())


def test_every_node_gets_clients_and_one_that_is_killed_gets_none(proxied: Proxied) -> None:
    wait_until(lambda: proxied.publish("user-1") == 0 and all(proxied.clients()), "each node has had a client")
    proxied.nodes[1].kill()
    assert [proxied.publish("user-2") for _ in range(10)] == [0] * 10, "a refused connection is tried elsewhere"
    proxied.program.line(lambda line: "tideline/node2 is DOWN" in line)
    proxied.nodes[1].start()
    proxied.program.line(lambda line: "tideline/node2 is UP" in line)


def test_the_health_check_leaves_no_session(proxied: Proxied) -> None:
    wait_until(
        lambda: all("identifier" in node.log or "empty client id" in node.log for node in proxied.nodes), "it was checked"
    )
    for node in proxied.nodes:
        seen = [line for line in node.log.splitlines() if ": connected: " in line and "user-" not in line]
        assert seen == [], "a health check opened a session"


def test_sticky_by_user_name(tmp_path: Path) -> None:
    text = CONFIG.read_text()
    for line in ("stick-table ", "stick on "):
        assert f"#   {line}" in text, "the option that the file shows"
        text = text.replace(f"#   {line}", line)
    with ExitStack() as stack:
        proxied = started(tmp_path, stack, text)
        before = proxied.clients()
        assert [proxied.publish("user-7") for _ in range(9)] == [0] * 9
        assert sorted(after - seen for after, seen in zip(proxied.clients(), before, strict=True)) == [0, 0, 9]


def test_what_does_not_speak_mqtt_is_turned_away(proxied: Proxied) -> None:
    done = subprocess.run(
        ["curl", "-s", "-m", "5", f"http://127.0.0.1:{proxied.port}/"], capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode in (52, 56), "an empty reply or a reset"


@pytest.mark.timeout(600)
def test_no_law_is_broken_behind_it(tmp_path: Path) -> None:
    """The nodes of one cluster are killed and frozen, and so is the database; what clients and storage have is checked."""
    mongo = MongoServer(tmp_path / "mongo")
    mongo.start()
    try:
        run = BehindHaProxy(tmp_path, mongo, new_database(), 3)
        run.run(5)
        run.check()
    finally:
        mongo.kill()
