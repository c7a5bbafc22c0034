"""Our own bridge to a mosquitto broker (Debian: mosquitto), in MQTT 3.1.1 and 5, as docs/bridge.md says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop.programs import Program, needs, ok
from tests.support.broker import ANONYMOUS
from tests.support.laws_process import broker_process, free_port
from tests.support.until import wait_until

pytestmark = [needs("mosquitto", "Debian's mosquitto"), needs("mosquitto_pub", "Debian's mosquitto-clients")]

NOBODY = {"tests.support.laws_auth.NameIsPassword": False, "tests.support.laws_auth.ForbiddenTopics": False}


def published(port: int, topic: str, text: str) -> None:
    ok("mosquitto_pub", "-p", str(port), "-q", "1", "-t", topic, "-m", text)


@pytest.mark.parametrize("protocol", [4, 5])
def test_messages_go_both_ways_and_none_is_lost_over_a_kill(tmp_path: Path, protocol: int) -> None:
    port = free_port()
    (tmp_path / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    bridge = {
        "name": "field",
        "address": f"127.0.0.1:{port}",
        "protocol": protocol,
        "send": [{"filter": "down/#"}],
        "receive": [{"filter": "up/#", "local": "field/"}],
    }
    plugins = {**NOBODY, **ANONYMOUS, "bridge": {"bridges": [bridge]}}
    durable = ("-i", "cloud", "-c", "-q", "1", "-t", "field/up/#")
    with Program("mosquitto", "-c", str(tmp_path / "mosquitto.conf")) as mosquitto:
        mosquitto.line(lambda line: "running" in line)
        with (
            Program("mosquitto_sub", "-p", str(port), "-i", "field", "-c", "-q", "1", "-t", "down/#") as field,
            broker_process(tmp_path, f"sqlite:///{tmp_path}/t.db", plugins=plugins) as site,
        ):
            with Program("mosquitto_sub", "-p", str(site.port), *durable) as cloud:

                def through() -> bool:
                    published(port, "up/ping", "ping")
                    return bool(cloud.seen("ping"))

                wait_until(through, "the bridge passes messages on")
                published(site.port, "down/a", "to the field")
                field.line("to the field")
            published(site.port, "down/b", "last words")
            site.kill()
            for number in range(20):
                published(port, "up/a", f"kept {number}")
            site.start()
            field.line("last words")
            with Program("mosquitto_sub", "-p", str(site.port), *durable) as cloud:
                got = [cloud.line("kept") for _ in range(20)]
            assert got == [f"kept {number}" for number in range(20)]
