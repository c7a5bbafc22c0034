"""curl, whose `mqtt://` is a client of its own (3.1.1, QoS 0), and the HTTP API with it."""

from __future__ import annotations

import json

from tests.interop.conftest import Site
from tests.interop.programs import Program, needs, ok, run
from tests.support.until import wait_until

pytestmark = needs("curl", "Debian's curl")


def test_what_curl_publishes_is_in_the_history(shared: Site, name: str) -> None:
    ok("curl", "-s", "-d", "21.5", f"mqtt://localhost:{shared.port}/{name}/temp")
    url = f"http://localhost:{shared.ports['http']}/v1/conversations/{name}/temp/messages"
    wait_until(lambda: run("curl", "-sf", url).returncode == 0, "the message is stored")  # QoS 0 says nothing of it
    (message,) = json.loads(ok("curl", "-sf", url))["messages"]
    assert (message["payload"], message["qos"]) == ("21.5", 0)


def test_curl_subscribes(shared: Site, name: str) -> None:
    publish = ("curl", "-s", "-H", "Content-Type: application/json", "-d", '{"payload": "hello\\n", "retain": true}')
    ok(*publish, f"http://localhost:{shared.ports['http']}/v1/conversations/{name}/messages")
    with Program("curl", "-sN", f"mqtt://localhost:{shared.port}/{name}") as subscriber:
        assert subscriber.line(lambda line: "hello" in line)
