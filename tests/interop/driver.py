"""Clients that are libraries: a small program of ours drives each, and all of them understand the same lines of JSON.

Its last argument is the settings: ``transport``, ``port``, ``version`` (4 or 5), ``id``, ``clean``, ``cafile``, ``will``. Its
input is commands (``do``: subscribe, publish, disconnect), its output events (``event``: connected, subscribed, published,
message, lost, ended). Payloads and correlation data are hexadecimal. It reconnects by itself, and resends what was not
acknowledged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.interop.conftest import Site
from tests.interop.programs import Program


class Driver:
    """One client of a library, in a process of its own."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def event(self, kind: str, **values: Any) -> dict[str, Any]:
        """Take the next event of this kind, with these values."""

        def wanted(line: str) -> bool:
            event = json.loads(line) if line.startswith("{") else {}
            return event.get("event") == kind and all(event.get(name) == value for name, value in values.items())

        found: dict[str, Any] = json.loads(self.program.line(wanted))
        return found

    def connected(self) -> bool:
        """Wait for CONNACK; whether a session was present."""
        return bool(self.event("connected")["present"])

    def subscribe(self, filter_: str, qos: int = 1, *, no_local: bool = False) -> int:
        """SUBSCRIBE and wait for SUBACK; the granted QoS."""
        self.program.tell(json.dumps({"do": "subscribe", "filter": filter_, "qos": qos, "no_local": no_local}))
        granted: int = self.event("subscribed")["granted"][0]
        return granted

    def send(self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False, **properties: Any) -> None:
        """PUBLISH, and wait for nothing."""
        values = {"topic": topic, "payload": payload.hex(), "qos": qos, "retain": retain, "properties": properties}
        self.program.tell(json.dumps({"do": "publish", **values}))

    def published(self, payload: bytes) -> None:
        """Wait for the acknowledgement of what was sent with this payload."""
        event = self.event("published", payload=payload.hex())
        assert event["error"] is None, event

    def publish(self, topic: str, payload: bytes, qos: int = 1, *, retain: bool = False, **properties: Any) -> None:
        """PUBLISH and wait for its acknowledgement."""
        self.send(topic, payload, qos, retain=retain, **properties)
        self.published(payload)

    def message(self) -> dict[str, Any]:
        """Take the next message; its payload is bytes."""
        found = self.event("message")
        return {**found, "payload": bytes.fromhex(found["payload"])}

    def payloads_until(self, last: bytes) -> list[bytes]:
        """The payloads that come before this one."""
        return list(iter(lambda: self.message()["payload"], last))

    def leave(self) -> None:
        """DISCONNECT, and the end of the process."""
        self.program.tell(json.dumps({"do": "disconnect"}))
        self.event("ended")


Opens = Callable[..., Any]


def opener(site: Site, command: list[str], **library: Any) -> Opens:
    """What connects clients of a library to a site: ``with open_("id", clean=False) as client``."""

    @contextmanager
    def open_(client_id: str, *, clean: bool = True, present: bool | None = None, **settings: Any) -> Iterator[Driver]:
        chosen = {**library, "id": client_id, "clean": clean, "cafile": site.cafile, **settings}
        chosen["port"] = site.ports[chosen["transport"]]
        with Program(*command, json.dumps(chosen)) as program:
            client = Driver(program)
            found = client.connected()
            assert present in (None, found)
            yield client

    return open_
