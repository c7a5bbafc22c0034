"""The HTTP API as a plugin: uvicorn in the broker's process and event loop."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
from fastapi import APIRouter

from broker import build
from broker.amqtt import Services, TidelineContext
from broker.config import Certificate, Tls, checked_bind, checked_mode, is_loopback, socket_path, split_bind
from broker.errors import fault_of, refuse
from broker.hooks import Group, GroupPlugin
from broker.net import Admission
from plugins.http import app as application
from plugins.http.account import TOKENS
from plugins.http.api import Api
from plugins.http.auth import Authenticator
from plugins.http.listening import closed, opened, path_of, reached_by
from plugins.http.operator_file import OperatorFile
from plugins.http.operator_secret import OperatorSecret
from plugins.http.probes import Access, Scraped
from plugins.http.protocol import Protocol, ours_instead
from plugins.http.rates import Rates
from plugins.http.server import Server
from plugins.metrics import Metrics
from plugins.timelines import Participants

log = logging.getLogger(__name__)

HEADERS = 192 << 10
"""Bytes of a request's line and headers: a topic has up to 65,535, each of which may take three in a path."""


def add_router(context: Any, router: APIRouter, *, streamed: str = "", documented: Mapping[str, Any] | None = None) -> None:
    """Give the API more routes, under ``/v1``: for another plugin's ``__init__``. `plugins.http.api` has what routes need.
    ``streamed``: the path below which they read bodies that are no JSON, and answer HEAD, themselves. They see to their size,
    and that another site's page cannot call them without asking first. ``documented``: what the OpenAPI document says of plain
    routes, by path below ``/v1``.
    """
    context.shared.setdefault("http routers", []).append(router)
    if streamed:
        context.shared.setdefault("http streamed", []).append(f"/v1{streamed}")
    for path, calls in (documented or {}).items():
        context.shared.setdefault("http documented", {})[f"/v1{path}"] = calls


class HttpPlugin(GroupPlugin):
    """History, sync, devices, tokens and search over HTTP."""

    @dataclass
    class Config:
        """Settings under ``plugins: http:``."""

        bind: str = "127.0.0.1:8080"
        """``host:port``; port 0 takes a free one. ``unix:/path`` is a Unix socket."""
        mode: str = "660"
        """Who may connect to a Unix socket: its file's mode, in octal digits and quotes."""
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
        rate: float = 1000.0
        """Requests a second of one caller, the operator excepted; 0 is no limit."""
        rate_per_address: float = 0.0
        """Requests a second from one address; 0 is no limit."""
        reuse_port: bool = False
        """Let other processes of this user listen on the same port (``SO_REUSEPORT``)."""
        metrics: Access = "local"
        """Who may read ``/metrics``: ``local`` is everybody where the API is bound to loopback, else the operator; ``open`` is
        everybody, ``operator`` the operator alone. Who has ``metrics_token`` may in any case."""
        metrics_token: str = ""
        """A secret of your choice that Prometheus sends as its bearer token. It opens ``/metrics``, and nothing else."""
        node_bind: str = ""
        """``host:port`` of this node alone, beside ``bind``: of several workers the first has this port, the next the one
        after it."""
        operator_file: str = "data/operator.json"
        """Where `tideline` commands find this broker, and the secret of this run that makes them its operator; beside it, in a
        file that ends in ``.secret``, is one that outlives the run, for scripts and other machines. Empty: neither."""

        def __post_init__(self) -> None:
            refuse(self._faults())

        def _faults(self) -> Iterator[str]:
            for name, bind in (("bind", self.bind), ("node_bind", self.node_bind)):
                try:
                    (checked_bind if name == "bind" else split_bind)(bind) if bind or name == "bind" else None
                except ValueError as error:
                    yield f"{name} {bind!r} {error}"
            yield from (f"mode {self.mode!r} {fault}" for fault in fault_of(partial(checked_mode, self.mode)))
            if socket_path(self.bind) is not None and self.certfile:
                yield f"certfile {self.certfile!r} must be left out: a Unix socket is of this machine alone"
            if 0 < len(self.metrics_token) < 16:
                yield "metrics_token must be a secret of 16 characters or more, or empty"
            for name, least in (
                ("storage_timeout", 0.001),
                ("max_wait", 0),
                ("max_waiting", 1),
                ("rate", 0),
                ("rate_per_address", 0),
            ):
                if not getattr(self, name) >= least:
                    yield f"{name} {getattr(self, name):g} must be {least:g} or more"
            if self.keyfile and not self.certfile:
                yield f"keyfile {self.keyfile!r} must have a certfile beside it, the certificate that it belongs to"

        @property
        def tls(self) -> Tls | None:
            """The certificates, where it is HTTPS."""
            return (
                Tls(certfile=Path(self.certfile), keyfile=Path(self.keyfile) if self.keyfile else None)
                if self.certfile
                else None
            )

    config: Config
    context: TidelineContext

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._participants = Participants.shared(context)
        self._server: Server | None = None
        self._sockets: list[socket.socket] = []
        self._task: asyncio.Task[None] | None = None
        self._api: Api | None = None
        self._metrics: Metrics | None = None
        self._certificate: Certificate | None = None
        self._operator = OperatorFile(self.config.operator_file)
        self._secret = OperatorSecret(self.config.operator_file)
        cast(Services, self.context.server).watch_settings(TOKENS, self._token_revoked)

    def _token_revoked(self, settings: Mapping[str, bytes], changed: Collection[str]) -> None:
        if self._api is not None:
            self._api.authenticator.token_revoked()

    def before_ack(self, group: Group) -> None:
        """Note who takes part in what, in the messages' own commit."""
        self._participants.note(group, self)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, by a port. Only while it runs."""
        host, port = self._sockets[0].getsockname()[:2]
        return host, port

    @property
    def node_address(self) -> tuple[str, int]:
        """Where ``node_bind`` listens. Only while it runs."""
        host, port = self._sockets[-1].getsockname()[:2]
        return host, port

    async def on_broker_post_start(self) -> None:
        """Listen. Raises `StartError` where that cannot be."""
        config = self.config
        services = cast(Services, self.context.server)
        self._certificate = Certificate("plugins.http: ", config.tls, "http/1.1") if config.tls else None
        self._sockets = [opened(config.bind, config.mode, reuse_port=config.reuse_port)]
        if config.node_bind:
            self._sockets.append(opened(config.node_bind, config.mode))
        binds = [split_bind(bind)[0] for bind in (config.bind, config.node_bind) if bind and socket_path(bind) is None]
        loopback = all(map(is_loopback, binds))
        self._secret.read()
        authenticator = Authenticator(services, loopback=loopback, is_operator=self._is_operator)
        api = self._api = Api(
            services,
            authenticator,
            Rates(config.rate, config.rate_per_address, services.counters),
            timeout=config.storage_timeout,
            max_wait=config.max_wait,
            max_waiting=config.max_waiting,
        )
        hosts = {*binds, *config.hosts} if loopback or config.hosts else None
        max_body = services.settings.mqtt.max_packet_size * 2 + (64 << 10)
        self._metrics = Metrics(services, build.version(), self.context.shared.get("metrics", ()), compiled=build.compiled())
        scraped = Scraped(
            self._metrics,
            open=config.metrics == "open" or (config.metrics == "local" and loopback),
            token=config.metrics_token,
        )
        routers = self.context.shared.get("http routers", ())
        pages = self.context.shared.get("http pages", ())
        app = application.make(
            api,
            scraped,
            routers,
            pages,
            hosts=hosts,
            max_body=max_body,
            streamed=self.context.shared.get("http streamed", ()),
            documented=self.context.shared.get("http documented", {}),
            origins=services.origins,
        )
        services.origins.ports.update(one.getsockname()[1] for one in self._sockets if not path_of(one))
        if self._certificate is not None:
            services.certificates.add(self._certificate)
        await self._serve(app, self._certificate.context if self._certificate is not None else None)
        scheme = "https" if config.certfile else "http"
        first, url = self._sockets[0], f"{scheme}://{reached_by(self._sockets[0])}"
        log.info("http: %s, documentation at /docs", f"unix:{path_of(first)}" if path_of(first) else f"{url}/v1")
        self._operator.write(url, config.certfile, path_of(first))
        if authenticator.open_to_operator:
            log.warning(
                "http: there are no users and everything is bound to loopback: whoever calls from this machine without "
                "credentials is the operator and reads everything. This ends with the first user, or listener bound elsewhere"
            )

    async def _serve(self, app: Any, tls: ssl.SSLContext | None) -> None:
        admission = Admission("http", 0, cast(Services, self.context.server).counters)
        config = uvicorn.Config(
            app,
            http=cast(Any, partial(Protocol, admission.handshake_failed)),
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
        server = self._server = Server(config)
        self._task = asyncio.create_task(server.serve(sockets=self._sockets), name="http")
        while not server.started and not self._task.done():
            await asyncio.sleep(0.01)
        if self._task.done():
            await self._task

    def _is_operator(self, secret: str) -> bool:
        return self._operator.is_it(secret) or self._secret.is_it(secret)

    async def renew_secret(self) -> bool:
        """Read the operator's secret again, or make another where it was removed; whether it is another. Raises `StartError`,
        and the old one stays."""
        changed = self._secret.read()
        if changed and self._api is not None:
            self._api.authenticator.token_revoked()
        return changed

    async def renew_certificate(self) -> bool:
        """Read the certificate again; False where it is plain HTTP. Raises `StartError`, and the old one stays."""
        if self._certificate is None or self.config.tls is None:
            return False
        await cast(Services, self.context.server).certificates.renew(self._certificate, self.config.tls)
        return True

    async def on_broker_pre_shutdown(self) -> None:
        await self.close()

    async def close(self) -> None:
        """Answer what is under way, end streams and waits, and stop listening. May be called twice."""
        self._operator.remove()
        server, task, sockets = self._server, self._task, self._sockets
        self._server = self._task = None
        self._sockets = []
        paths = [path_of(sock) for sock in sockets]  # uvicorn closes the sockets
        if self._api is not None:
            self._api.stopping.set()
            self._api.levels.forget()
        if server is not None and task is not None:
            server.end()
            await asyncio.gather(task, return_exceptions=True)
        for sock, path in zip(sockets, paths, strict=True):
            closed(sock, path)
        if self._metrics is not None:
            await self._metrics.close()
