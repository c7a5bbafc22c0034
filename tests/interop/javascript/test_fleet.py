"""The sample fleet (examples/fleet): its sensors, and its flow in a real Node-RED, over kills of each."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.interop.javascript.conftest import Site
from tests.interop.programs import PACKAGES, Program, needs, npm_needs
from tests.support.laws_process import ROOT, free_port
from tests.support.until import wait_until

FLEET = ROOT / "examples" / "fleet"
NODE_RED = PACKAGES / "node-red" / "node_modules" / "node-red"
pytestmark = [needs("node", "Debian's nodejs"), needs("npm", "Debian's npm"), npm_needs("mqtt"), npm_needs("typescript")]


def test_sensors_lose_no_reading_when_the_broker_and_they_themselves_are_killed(
    anonymous: Site, project: Path, tmp_path: Path
) -> None:
    shutil.copy(FLEET / "sensors.mjs", project)
    command = ("node", str(project / "sensors.mjs"), anonymous.url)
    environ = {**os.environ, "FOLDER": str(tmp_path), "INTERVAL": "20"}
    taken = []
    for round_ in range(3):
        with Program(*command, env=environ) as sensors:
            for number in range(20):
                if round_ == 1 and number == 5:
                    anonymous.broker.kill()
                taken.append(sensors.line("kitchen ").split()[1])
            sensors.kill()
        if round_ == 1:
            anonymous.broker.start()
    with Program(*command, env={**environ, "INTERVAL": "1000"}) as sensors:
        wait_until(lambda: sensors.line("kitchen ").split()[2] in ("0", "1"), "all is out, but for what it has just measured")
    stored = [str(reading["temperature"]) for reading in readings(anonymous, "home/kitchen/climate")]
    left = iter(stored)
    assert all(reading in left for reading in taken), "each is there, in order"


def readings(at: Site, topic: str) -> list[Any]:
    return [json.loads(one) if isinstance(one, str) else one for one in at.texts(topic)]


@pytest.mark.skipif(
    not NODE_RED.is_dir(), reason="node-red is missing: npm could not install it (tests/interop/node-red/package.json)"
)
def test_the_flow_raises_alarms_also_for_what_came_while_node_red_was_killed(anonymous: Site, tmp_path: Path) -> None:
    folder = tmp_path / "node-red"
    folder.mkdir()
    shutil.copy(FLEET / "node-red" / "flows.json", folder)
    port = free_port()
    (folder / "settings.js").write_text(
        f"module.exports = {{ uiHost: '127.0.0.1', uiPort: {port}, flowFile: 'flows.json', telemetry: {{ enabled: false }} }}\n"
    )
    command = ("node", str(NODE_RED / "red.js"), "--userDir", str(folder), "--settings", str(folder / "settings.js"))
    environ = {**os.environ, "TIDELINE_HOST": "127.0.0.1", "TIDELINE_PORT": str(anonymous.broker.port)}

    def reading(temperature: float, time: str) -> None:
        anonymous.say("fleet", "home/kitchen/climate", json.dumps({"temperature": temperature, "time": time}))

    with Program(*command, env=environ) as red:
        red.line(lambda line: "Connected to broker: node-red-fleet" in line)
        reading(20, "t1")
        reading(31.5, "t2")
        wait_until(lambda: readings(anonymous, "alarm/kitchen"), "there is an alarm")
        red.kill()
    reading(40, "t3")
    reading(12, "t4")
    with Program(*command, env=environ) as red:
        wait_until(lambda: len(readings(anonymous, "alarm/kitchen")) == 2, "it hears of what came meanwhile")
    assert readings(anonymous, "alarm/kitchen") == [
        {"room": "kitchen", "temperature": 31.5, "time": "t2"},
        {"room": "kitchen", "temperature": 40, "time": "t3"},
    ]
