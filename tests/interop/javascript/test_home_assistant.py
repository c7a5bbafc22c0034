"""The sample fleet in a real Home Assistant, over a kill of the broker. Everything is done through its REST API."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.interop.javascript.conftest import Site
from tests.interop.programs import PACKAGES, Program
from tests.support.laws_process import ROOT, free_port
from tests.support.until import wait_until

FLEET = ROOT / "examples" / "fleet"
CONFIGURATION = FLEET / "home-assistant" / "configuration.yaml"
HASS = PACKAGES / "home-assistant" / "bin" / "hass"
STARTS = 240.0
"""Seconds that it may take to start: on a busy machine its imports alone take half a minute."""
OWN = "http://127.0.0.1/"
"""The client id of a login: Home Assistant wants a URL."""


class Home:
    """A Home Assistant, with its owner logged in."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)
        wait_until(self._up, "Home Assistant serves its API", STARTS)
        owner = {"name": "Ann", "username": "ann", "password": "a pass word", "language": "en", "client_id": OWN}
        code = self._post("/api/onboarding/users", owner)["auth_code"]
        login = {"grant_type": "authorization_code", "code": code, "client_id": OWN}
        token = self._http.post("/auth/token", data=login).raise_for_status().json()["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def _up(self) -> bool:
        try:
            return self._http.get("/api/onboarding").is_success
        except httpx.TransportError:
            return False

    def _post(self, path: str, fields: dict[str, Any]) -> Any:
        return self._http.post(path, json=fields).raise_for_status().json()

    def connect(self, port: int) -> None:
        """Add the MQTT integration as its page does: of a broker on this machine, with MQTT 5."""
        flow = self._post("/api/config/config_entries/flow", {"handler": "mqtt", "show_advanced_options": True})
        step = f"/api/config/config_entries/flow/{flow['flow_id']}"
        more = self._post(step, {"broker": "127.0.0.1", "port": port, "advanced_options": True})
        assert "protocol" in [field["name"] for field in more["data_schema"]]
        done = self._post(step, {"broker": "127.0.0.1", "port": port, "protocol": "5"})
        assert done["type"] == "create_entry", done

    def state(self, entity: str) -> str | None:
        """What it shows of an entity; None while there is none."""
        answer = self._http.get(f"/api/states/{entity}")
        return None if answer.status_code == 404 else str(answer.raise_for_status().json()["state"])

    def turn_on(self, switch: str) -> None:
        self._post("/api/services/switch/turn_on", {"entity_id": switch})


@contextmanager
def home(folder: Path) -> Iterator[Home]:
    port = free_port()
    http = yaml.safe_dump({"http": {"server_host": "127.0.0.1", "server_port": port}})
    (folder / "configuration.yaml").write_text(f"{CONFIGURATION.read_text()}\n{http}")
    with Program(str(HASS), "--config", str(folder), "--skip-pip"):
        yield Home(f"http://127.0.0.1:{port}")


def subscribed(at: Site, topic: str) -> bool:
    try:
        found = at.http.get("/subscriptions", params={"topic": topic}).raise_for_status().json()
    except httpx.TransportError:
        return False  # the broker has just started
    return bool(found["subscriptions"])


@pytest.mark.skipif(
    not HASS.exists(),
    reason="Home Assistant is missing: PyPI has none for this Python (tests/interop/home-assistant/requirements.txt)",
)
def test_home_assistant_shows_the_fleet_also_after_the_broker_was_killed(anonymous: Site, tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    found = json.loads((FLEET / "home-assistant" / "discovery.json").read_text())
    anonymous.http.post("/messages", params={"user": "u/fleet"}, json=found).raise_for_status()

    def reading(room: str, temperature: float) -> None:
        anonymous.say("fleet", f"home/{room}/climate", json.dumps({"temperature": temperature, "time": "t"}))

    def shows(entity: str, wanted: str) -> None:
        wait_until(lambda: at_home.state(entity) == wanted, lambda: f"{entity} is {at_home.state(entity)}, not {wanted}")

    with home(folder) as at_home:
        at_home.connect(anonymous.broker.port)
        for kitchen, porch in ((21.5, 3.5), (22.5, -4.5)):
            for topic in ("home/kitchen/climate", "home/porch/climate", "alarm/kitchen"):
                wait_until(lambda topic=topic: subscribed(anonymous, topic), f"it subscribes to {topic}")  # type: ignore[misc]
            reading("kitchen", kitchen)
            reading("porch", porch)
            shows("sensor.kitchen_temperature", str(kitchen))
            shows("sensor.porch_temperature", str(porch))
            if kitchen == 21.5:
                anonymous.broker.kill()
                shows("sensor.porch_temperature", "unavailable")
                anonymous.broker.start()
        anonymous.say("fleet", "alarm/kitchen", json.dumps({"room": "kitchen", "temperature": 31}))
        shows("binary_sensor.kitchen_alarm", "on")
        at_home.turn_on("switch.kitchen_fan")
        wait_until(lambda: anonymous.texts("home/kitchen/fan/set") == ["ON"], "the fan is asked to turn on")
        kept = anonymous.http.get("/retained", params={"filter": "home/#"}).raise_for_status().json()["messages"]
        assert [(message["topic"], message["payload"]) for message in kept] == [("home/kitchen/fan/set", "ON")]
        anonymous.say("fleet", "home/kitchen/fan", "ON")
        shows("switch.kitchen_fan", "on")


def test_its_configuration_names_the_fleet_s_topics() -> None:
    found = yaml.safe_load(CONFIGURATION.read_text())["mqtt"]
    rooms = json.loads(re.search(r"ROOMS = (\[.*\]);", (FLEET / "sensors.mjs").read_text())[1])  # type: ignore[index]
    assert [sensor["state_topic"] for sensor in found["sensor"]] == [f"home/{room}/climate" for room in rooms]
    assert {one["state_topic"] for one in found["binary_sensor"]} <= {f"alarm/{room}" for room in rooms}
    everything = [one for kind in found.values() for one in kind]
    assert len({one["unique_id"] for one in everything}) == len(everything)
    assert all(one["qos"] == 1 for one in everything)
