"""MQTT.js (npm: mqtt), which `make interop` installs from npm/package-lock.json; over each transport, in both versions."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.interop.conftest import HERE
from tests.interop.programs import NPM, needs, npm_needs
from tests.interop.promises import Promises

pytestmark = [needs("node", "Debian's nodejs"), npm_needs("mqtt")]
WAYS = [{"transport": transport, "version": version} for transport in ("tcp", "ws", "tls", "wss") for version in (4, 5)]


@pytest.mark.parametrize("way", WAYS, indirect=True, ids=lambda way: f"{way['transport']}-{way['version']}")
class TestMqttJs(Promises):
    command: ClassVar = ["node", str(HERE / "npm" / "client.js"), str(NPM)]
