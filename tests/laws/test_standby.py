"""A broker that stands by: it waits for as long as another one serves the data, and takes over when that one ends."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.laws_process import BrokerProcess, broker_process
from tests.support.laws_wire import dropping, enter
from tests.support.until import wait_until


@pytest.fixture
def url(tmp_path: Path) -> str:
    """On MongoDB all brokers serve."""
    return f"sqlite:///{tmp_path}/laws.db"


@pytest.fixture(params=["killed", "stopped"])
def end(request: pytest.FixtureRequest) -> str:
    how: str = request.param
    return how


async def test_a_standby_waits_and_takes_over(tmp_path: Path, url: str, end: str) -> None:
    """For as long as it takes; then it has what the other one acknowledged."""
    first = BrokerProcess(tmp_path, url)
    second = BrokerProcess(tmp_path, url, arguments=("--standby",))
    try:
        first.start()
        second.spawn()
        wait_until(lambda: "standing by: " in second.log, "the second one knows that it must wait")
        told = time.monotonic()
        wait_until(lambda: time.monotonic() - told > 1.5, "it has looked several times")
        client = await enter(first, "ann", "ann-1")
        async with dropping(client):
            await client.publish("a", b"kept", qos=1, retain=True)
        assert second.process is not None
        assert second.process.poll() is None
        assert second.log.count("standing by: ") == 1
        first.kill() if end == "killed" else first.stop()
        second.ready()
        client = await enter(second, "ann", "ann-1")
        async with dropping(client):
            await client.subscribe("a", options=1)
            assert (await client.message()).payload == b"kept"
    finally:
        first.kill()
        second.kill()
    assert second.complaints == []


def test_a_standby_that_is_told_to_stop_ends(tmp_path: Path, url: str) -> None:
    with broker_process(tmp_path, url):
        second = BrokerProcess(tmp_path, url, arguments=("--standby",))
        second.spawn()
        wait_until(lambda: "standing by: " in second.log, "the second one waits")
        second.stop()


def test_where_nobody_serves_it_starts_at_once(tmp_path: Path, url: str) -> None:
    with broker_process(tmp_path, url, arguments=("--standby",)) as broker:
        assert "standing by" not in broker.log
