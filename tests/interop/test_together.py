"""curl, mosquitto's clients and paho-mqtt at one broker: one timeline, one read position."""

from __future__ import annotations

import json

import paho.mqtt.client as paho

from tests.interop.conftest import Site
from tests.interop.programs import Program, needs, ok
from tests.support.paho_client import PahoClient

pytestmark = [needs("mosquitto_pub", "Debian's mosquitto-clients"), needs("curl", "Debian's curl")]


def http(site: Site, path: str, *options: str) -> dict[str, object]:
    answer: dict[str, object] = json.loads(
        ok("curl", "-sf", *options, "-H", "Content-Type: application/json", f"http://localhost:{site.ports['http']}/v1{path}")
    )
    return answer


def test_each_sees_what_the_others_do(shared: Site, name: str) -> None:
    tablet = PahoClient(f"{name}-tablet", paho.MQTTv5)
    assert tablet.connect(("localhost", shared.port)) == "Success"
    assert tablet.subscribe(f"{name}/#")
    phone = ("-p", str(shared.port), "-i", f"{name}-phone", "-d", "-v")
    with Program("mosquitto_sub", *phone, "-q", "1", "-t", f"{name}/#", "-t", f"$sync/events/{name}-phone") as listening:
        listening.line("Subscribed")
        ok("mosquitto_pub", "-p", str(shared.port), "-q", "2", "-t", f"{name}/a", "-m", "from mosquitto")
        tablet.publish(f"{name}/a", b"from paho")
        http(shared, f"/conversations/{name}/a/messages", "-d", '{"payload": "from curl"}')
        texts = ["from mosquitto", "from paho", "from curl"]
        assert [tablet.receive()[1].decode() for _ in texts] == texts
        for text in texts:
            listening.line(f"{name}/a {text}")
        page = http(shared, f"/conversations/{name}/a/messages?order=oldest")
        assert [message["payload"] for message in page["messages"]] == texts  # type: ignore[attr-defined]
        state = http(shared, f"/conversations/{name}/a/position?user=c/{name}-phone", "-X", "PUT", "-d", '{"position": 2}')
        assert state["unread"] == 1
        event = json.loads(listening.line("$sync/events/").partition(" ")[2])
        assert (event["topic"], event["position"], event["unread"]) == (f"{name}/a", 2, 1)
    tablet.close()
