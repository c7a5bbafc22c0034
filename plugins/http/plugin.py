"""The HTTP API as a plugin: uvicorn in the broker's process and event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import APIRouter

from broker.amqtt import ChassisContext, Services
from broker.config import Certificate, Tls, is_loopback, split_bind
from broker.errors import StartError
from broker.hooks import Group, GroupPlugin
from broker.net import Gate as ListenerGate
from broker.net import advice
from plugins.http import app as application
from plugins.http.api import Api
from plugins.http.auth import Gate
from plugins.http.operator_file import OperatorFile
from plugins.http.protocol import Protocol, ours_instead
from plugins.timelines import Participants

log = logging.getLogger(__name__)

HEADERS = 192 << 10
"""Bytes of a request's line and headers: a topic has up to 65,535, each of which may take three in a path."""


def add_router(context: Any, router: APIRouter) -> None:
    """Give the API more routes, under ``/v1``: for another plugin's ``__init__``. `plugins.http.api` has what routes need."""
    context.shared.setdefault("http routers", []).append(router)


class HttpPlugin(GroupPlugin):
    """History, sync, devices, tokens and search over HTTP."""

    @dataclass
    class Config:
        """Settings under ``plugins: http:``."""

        bind: str = "127.0.0.1:8080"
        """``host:port``; port 0 takes a free one."""
        hosts: list[str] = field(default_factory=list)
        """Names that browsers may reach the API by, beside localhost; on a bind that others can reach, none means any."""
        certfile: str = ""
        """A PEM certificate with its chain makes it HTTPS."""
        keyfile: str = ""
        """Its private key, where that is in a file of its own."""
        storage_timeout: float = 10.0
        """Seconds that a write may wait for storage before the caller is told."""
        max_wait: float = 60.0
        """Seconds that a long poll may wait."""
        max_waiting: int = 1000
        """Callers that may wait at once."""
        operator_file: str = "data/operator.json"
        """Where `tideline` commands find this broker, and the secret that makes them its operator. Empty: nowhere."""

        def __post_init__(self) -> None:
            try:
                split_bind(self.bind)
            except ValueError as error:
                raise ValueError(f"bind {self.bind!r} {error}") from error
            if self.storage_timeout <= 0 or self.max_wait < 0 or self.max_waiting < 1:
                raise ValueError("storage_timeout and max_waiting must be positive, max_wait 0 or more")
            if self.keyfile and not self.certfile:
                raise ValueError("keyfile needs certfile, the certificate that it belongs to")

        @property
        def tls(self) -> Tls | None:
            """The certificates, where it is HTTPS."""
            return (
                Tls(certfile=Path(self.certfile), keyfile=Path(self.keyfile) if self.keyfile else None)
                if self.certfile
                else None
            )

    config: Config
    context: ChassisContext

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._participants = Participants.shared(context)
        self._server: Quiet | None = None
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._api: Api | None = None
        self._certificate: Certificate | None = None
        self._operator = OperatorFile(self.config.operator_file)

    async def before_ack(self, group: Group) -> None:
        """Note who takes part in what, in the messages' own commit."""
        self._participants.note(group, self)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens. Only while it runs."""
        assert self._socket is not None
        host, port = self._socket.getsockname()[:2]
        return host, port

    async def on_broker_post_start(self) -> None:
        """Listen. Raises `StartError` where that cannot be."""
        config = self.config
        host, port = split_bind(config.bind)
        services = cast(Services, self.context.server)
        self._certificate = Certificate("plugins.http: ", config.tls, "http/1.1") if config.tls else None
        try:
            sock = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024)
        except OSError as error:
            raise StartError(f"plugins.http: cannot listen on {config.bind}: {advice(error)}") from error
        sock.setblocking(False)
        self._socket = sock
        loopback = is_loopback(host)
        gate = Gate(services, loopback=loopback, operator_secret=self._operator.secret)
        api = self._api = Api(
            services, gate, timeout=config.storage_timeout, max_wait=config.max_wait, max_waiting=config.max_waiting
        )
        hosts = {host, *config.hosts} if loopback or config.hosts else None
        max_body = services.settings.mqtt.max_packet_size * 2 + (64 << 10)
        app = application.make(api, self.context.shared.get("http routers", ()), hosts=hosts, max_body=max_body)
        await self._serve(app, sock, self._certificate.context if self._certificate is not None else None)
        scheme = "https" if config.certfile else "http"
        log.info("http: %s://%s:%d/v1, documentation at /docs", scheme, *self.address)
        self._operator.write(f"{scheme}://{_reached_by(*self.address)}", config.certfile)
        if gate.open_to_operator:
            log.warning(
                "http: there are no users and everything is bound to loopback: whoever calls from this machine without "
                "credentials is the operator and reads everything. This ends with the first user, or listener bound elsewhere"
            )

    async def _serve(self, app: Any, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        strangers = ListenerGate("http", 0, cast(Services, self.context.server).counters)
        config = uvicorn.Config(
            app,
            http=cast(Any, partial(Protocol, strangers.handshake_failed)),
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, round(cast(Services, self.context.server).settings.mqtt.shutdown_grace)),
            limit_concurrency=self.config.max_waiting + 1000,
            h11_max_incomplete_event_size=HEADERS,
        )
        config.load()
        config.ssl = tls
        uvicorns = logging.getLogger("uvicorn.error")
        uvicorns.setLevel(logging.WARNING)  # what it says beyond that, we say ourselves
        uvicorns.addFilter(ours_instead)
        server = self._server = Quiet(config)
        self._task = asyncio.create_task(server.serve(sockets=[sock]), name="http")
        while not server.started and not self._task.done():
            await asyncio.sleep(0.01)
        if self._task.done():
            await self._task

    async def renew_certificate(self) -> bool:
        """Read the certificate again; False where it is plain HTTP. Raises `StartError`, and the old one stays."""
        if self._certificate is None or self.config.tls is None:
            return False
        await asyncio.to_thread(self._certificate.renew, self.config.tls)
        return True

    async def on_broker_pre_shutdown(self) -> None:
        await self.close()

    async def close(self) -> None:
        """Answer what is under way, end streams and waits, and stop listening. May be called twice."""
        self._operator.remove()
        server, task, sock = self._server, self._task, self._socket
        self._server = self._task = self._socket = None
        if self._api is not None:
            self._api.stopping.set()
        if server is not None and task is not None:
            server.should_exit = True
            await asyncio.gather(task, return_exceptions=True)
        if sock is not None:
            sock.close()


def _reached_by(host: str, port: int) -> str:
    """Where a program on this machine finds what is bound there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Quiet(uvicorn.Server):
    """A uvicorn that leaves the process's signals to the broker."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
