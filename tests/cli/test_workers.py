"""`tideline serve --workers`: several nodes on one machine, on the same ports, kept alive."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from broker.cli.supervisor import Supervisor
from broker.cli.workers import Workers
from tests.cli.processes import PATIENCE, Process, ran, serving
from tests.support import mongo_server
from tests.support.until import until, wait_until


@contextmanager
def workers(folder: Path, count: int) -> Iterator[tuple[Process, int]]:
    """A `tideline serve --workers` whose workers serve, and its MQTT port."""
    url = mongo_server.url(mongo_server.new_database(), "tideline_lease_ms=2000")
    with serving(folder, "--workers", str(count), TIDELINE__PERSISTENCE__URL=url) as broker:
        port = broker.port()
        broker.line(f"serving with {count} workers")
        yield broker, port


def nodes(folder: Path) -> list[dict[str, object]]:
    """What `tideline cluster` lists of who is up."""
    found = [json.loads(line) for line in ran(folder, "cluster", "--json").stdout.splitlines()]
    return [node for node in found if node["state"] == "up"]


def process_ids(broker: Process) -> list[int]:
    """Of the workers that serve, in the order in which they said so."""
    return [int(line.rpartition(" ")[2]) for line in broker.log.splitlines() if " serves, process " in line]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


class Phone:
    """A stock client with a durable session; it has reconnected as often as `connects` says, less one."""

    def __init__(self, port: int, name: str) -> None:
        self.got: list[str] = []
        self.connects = 0
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, name, clean_session=False)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._connected
        self.client.on_message = lambda _, __, message: self.got.append(message.payload.decode())
        self.subscribed = False
        self.client.on_subscribe = lambda *_: setattr(self, "subscribed", True)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        wait_until(lambda: self.subscribed, f"{name} is subscribed")

    def _connected(self, client: mqtt.Client, *_: object) -> None:
        self.connects += 1
        client.subscribe("a/#", 1)

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_workers_are_one_system_on_one_port(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (broker, port):
        assert len(nodes(tmp_path)) == 2
        phones = [Phone(port, f"phone-{number}") for number in range(8)]  # the kernel spreads them
        for number, phone in enumerate(phones):
            phone.client.publish(f"a/{number}", str(number), 1)
        for phone in phones:
            wait_until(lambda phone=phone: len(phone.got) >= 8, "everybody has got everything")  # type: ignore[misc]
            assert sorted(phone.got) == sorted(map(str, range(8)))
            phone.stop()
        leaves = str(nodes(tmp_path)[0]["number"])
        assert ran(tmp_path, "cluster", "leave", leaves).returncode == 0
        wait_until(lambda: " has left" in broker.log, "one of them has left")
        assert len(nodes(tmp_path)) == 1, "the other one is still found"
        broker.signal(signal.SIGTERM)
        assert broker.wait() == 0
        assert not (tmp_path / "data" / "operator.json").exists()
        assert "Traceback" not in broker.log
        assert all(gone(pid) for pid in process_ids(broker))


def test_a_worker_that_dies_is_started_again_and_its_clients_go_on(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (broker, port):
        phones = [Phone(port, f"phone-{number}") for number in range(6)]
        victim = process_ids(broker)[0]
        os.kill(victim, signal.SIGKILL)
        phones[0].client.publish("a/b", "meanwhile", 1).wait_for_publish(PATIENCE)
        for phone in phones:
            wait_until(lambda phone=phone: "meanwhile" in phone.got, "the message reaches everybody")  # type: ignore[misc]
        wait_until(lambda: "ended by signal SIGKILL; started again" in broker.log, "it was noticed")
        wait_until(lambda: len(nodes(tmp_path)) == 2, "there are two again")
        for phone in phones:
            phone.stop()


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    with workers(tmp_path, 2) as (broker, _):
        started = process_ids(broker)
        broker.signal(signal.SIGKILL)
        broker.wait()
        wait_until(lambda: all(map(gone, started)), "they end")


async def test_what_a_worker_prints_is_passed_on_however_long_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """A plugin may print: that is neither swallowed where two print the same, nor the end of the workers."""
    says = "print('x' * 200_000); print('from a plugin'); print('from a plugin'); print('storing memory://')"
    await Workers([sys.executable, "-c", says], dict(os.environ), ["", ""], Supervisor()).run()
    said = capsys.readouterr().out.splitlines()
    assert said.count("from a plugin") == 4
    assert said.count("storing memory://") == 1
    assert said[-1] == "serving with 2 workers"


async def test_a_worker_that_cannot_be_started_again_costs_the_others_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One removes the program, when it is told to, and dies; the other one serves until it is told to end."""
    program, told = tmp_path / "worker", tmp_path / "told"
    os.mkfifo(told)
    program.write_text(
        f"#!/bin/sh\nmkdir {tmp_path}/first || {{ echo storing memory://; exec cat; }}\n: < {told}\nrm {program}\nexit 1\n"
    )
    program.chmod(0o700)
    workers = Workers([str(program)], {"PATH": os.defpath}, ["", ""], Supervisor())
    running = asyncio.create_task(workers.run())
    await until(lambda: workers._ready, "the other one serves")
    await asyncio.to_thread(lambda: told.open("w").close())
    await until(lambda: "could not be started: No such file or directory; started again" in caplog.text)
    assert not running.done()
    os.kill(os.getpid(), signal.SIGTERM)
    await running


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("0", "'0' is neither a number from 1 to 1024 nor auto"),
        ("many", "'many' is neither a number from 1 to 1024 nor auto"),
        ("2", "--workers 2: sqlite serves one node; several need a database that they share: persistence: url: mongodb://"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, value: str, says: str) -> None:
    done = ran(tmp_path, "serve", "--workers", value)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    url = mongo_server.url(mongo_server.new_database())
    with serving(tmp_path, TIDELINE__PERSISTENCE__URL="memory://") as other:
        bind = f"127.0.0.1:{other.port()}"
        told = {"TIDELINE__PERSISTENCE__URL": url, "TIDELINE__LISTENERS__0__BIND": bind}
        done = ran(tmp_path, "serve", "--workers", "2", **told)
    assert done.returncode == 3
    assert f"listeners.mqtt: cannot listen on {bind}: address already in use" in done.stderr
