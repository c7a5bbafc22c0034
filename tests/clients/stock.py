"""A broker process with every kind of listener, and where stock clients find it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.support.certificates import Certificates
from tests.support.laws_process import broker_process, free_port


class Way(NamedTuple):
    """How to connect: ``transport`` as paho names it, and whether over TLS."""

    transport: Literal["tcp", "websockets"] = "tcp"
    tls: bool = False


WAYS = [Way(), Way(tls=True), Way("websockets"), Way("websockets", tls=True)]


def way_name(way: Way) -> str:
    """For a test's id."""
    return {"tcp": "TCP", "websockets": "WebSocket"}[way.transport] + (" over TLS" if way.tls else "")


class Stock:
    """The broker's addresses. A user's password is their name; topics under ``forbidden/`` are nobody's."""

    def __init__(self, folder: Path) -> None:
        self.certificates = Certificates(folder)
        self._folder = folder
        self._ports = {way: free_port() for way in WAYS[1:]}
        self._names = itertools.count(1)

    def address(self, way: Way = WAYS[0]) -> tuple[str, int]:
        """Where it listens."""
        return "localhost", self._ports[way]

    def name(self, what: str) -> str:
        """A name that no other test uses: for users, clients and topics."""
        return f"{what}-{next(self._names)}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """While entered, the broker runs."""
        tls = {"certfile": str(self.certificates.server), "keyfile": str(self.certificates.server_key)}
        listeners = []
        for way, port in self._ports.items():
            listener: dict[str, Any] = {"name": way_name(way), "bind": f"127.0.0.1:{port}"}
            listener["type"] = "tcp" if way.transport == "tcp" else "ws"
            listeners.append({**listener, "tls": tls} if way.tls else listener)
        options = {"listeners": listeners, "mqtt": {"response_information": "replies"}}
        with broker_process(self._folder, f"sqlite:///{self._folder}/stock.db", **options) as broker:
            self._ports[WAYS[0]] = broker.port
            yield
            broker.stop()
