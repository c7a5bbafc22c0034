"""``tideline serve --workers N``: several nodes on one machine, so that all its cores are used.

Each worker is a `tideline serve` of its own that joins the cluster by itself. They listen on the same ports (``SO_REUSEPORT``);
the kernel shares the connections out. One that dies is started again; one that left the cluster (exit code 0) is not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import click

from broker.cli.ask import forget_broker
from broker.cli.settings import CANNOT_START, WRONG_CONFIGURATION, Failure
from broker.cli.supervisor import SERVES, Supervisor
from broker.config import Settings, socket_path, split_bind
from broker.net import advice
from broker.own_process import own_command, own_environment

log = logging.getLogger(__name__)

SECRET = "TIDELINE_WORKERS_SECRET"
"""The environment variable with what workers have in common: any of them takes the operator's secret of any other."""

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_LIVED = 60.0
"""Seconds after which a worker that dies is started again at once."""


class WorkersType(click.ParamType[int]):
    """A number of workers, or ``auto``."""

    name = "N|auto"

    def convert(self, value: object, parameter: click.Parameter | None, context: click.Context | None) -> int:
        if value == "auto":
            return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        text = str(value)
        if not text.isdecimal() or not 1 <= int(text) <= 1024:
            self.fail(f"{text!r} is neither a number from 1 to 1024 nor auto, the number of this machine's cores")
        return int(text)


def workers_problems(settings: Settings, count: int) -> list[str]:
    """Why this many nodes cannot run here, a line each."""
    problems: list[str] = []
    scheme = settings.storage_url.partition("://")[0]
    if scheme in ("sqlite", "memory"):
        shared = "several need a database that they share: persistence: url: mongodb://…"
        problems.append(f"--workers {count}: {scheme} serves one node; {shared}")
    if not hasattr(socket, "SO_REUSEPORT"):
        problems.append(f"--workers {count}: this system has no SO_REUSEPORT; start nodes on ports of their own")
    problems += [
        f"--workers {count}: listener {one.name}: a Unix socket has one process; leave it out, or serve by one worker"
        for one in settings.listeners
        if one.socket_path is not None
    ]
    return problems


def run_workers(settings: Settings, count: int, config: Path | None, supervisor: Supervisor) -> None:
    """Run them until SIGTERM or SIGINT, which they are told, or all have left. SIGHUP is theirs too."""
    with ExitStack() as held:
        environment = {**own_environment(), **_shared(settings, held)}
        environment.setdefault(SECRET, secrets.token_urlsafe(32))
        command = own_command("broker.cli", "serve", *(("--config", str(config)) if config is not None else ()))
        try:
            asyncio.run(Workers(command, environment, _node_binds(settings, count), supervisor).run())
        finally:
            forget_broker(settings, environment[SECRET])


def _shared(settings: Settings, held: ExitStack) -> dict[str, str]:
    """What makes the workers' listeners one: `reuse_port`, and a port that was free where none is named.

    The sockets that are ``held`` are bound and do not listen: they keep the ports while a worker is started again.
    """
    environment: dict[str, str] = {}
    binds = [(f"listeners.{one.name}", f"LISTENERS__{place}", one.bind) for place, one in enumerate(settings.listeners)]
    if (http := settings.plugins.get("http")) is not None:
        binds.append(("plugins.http", "PLUGINS__HTTP", str(http.get("bind", "127.0.0.1:8080"))))
    for name, variable, bind in binds:
        if socket_path(bind) is not None:
            raise Failure([f"{name}: {bind}: workers cannot share a Unix socket; give it a port"], WRONG_CONFIGURATION)
        environment[f"TIDELINE__{variable}__BIND"] = _hold(name, bind, held)
        environment[f"TIDELINE__{variable}__REUSE_PORT"] = "true"
    return environment


def _node_binds(settings: Settings, count: int) -> list[str]:
    """Where each worker listens alone: the first where the configuration says, the next a port further; empty for none."""
    bind = str((settings.plugins.get("http") or {}).get("node_bind", ""))
    if not bind:
        return [""] * count
    port = split_bind(bind)[1]
    if port and port + count - 1 > 65535:
        raise Failure([f"plugins.http.node_bind {bind}: {count} workers need as many ports from there on"], WRONG_CONFIGURATION)
    return [f"{bind.rpartition(':')[0]}:{port + place if port else 0}" for place in range(count)]


def _hold(name: str, bind: str, held: ExitStack) -> str:
    host, port = split_bind(bind)
    try:
        found = socket.getaddrinfo(
            host if host not in ("", "*") else None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            address = (address[0], port, *address[2:])
            if port:
                _bound(family, address, shared=False).close()  # whoever listens there is a stranger
            one = held.enter_context(_bound(family, address, shared=True))
            port = one.getsockname()[1]
    except OSError as error:
        raise Failure([f"{name}: cannot listen on {bind}: {advice(error)}"], CANNOT_START) from error
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bound(family: int, address: tuple[object, ...], *, shared: bool) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
    except BaseException:
        one.close()
        raise
    return one


class Workers:
    """Processes of one command, one for each of ``node_binds``, kept alive."""

    def __init__(self, command: list[str], environment: dict[str, str], node_binds: list[str], supervisor: Supervisor) -> None:
        self._command = command
        self._supervisor = supervisor
        self._environment = environment
        self._count = len(node_binds)
        self._node_binds = node_binds
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._announced: set[str] = set()
        self._ready: set[int] = set()
        self._refused = 0

    async def run(self) -> None:
        """Until all have ended. Raises `Failure` where one says that it cannot serve with this configuration."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._tell, signal.SIGHUP)
        self._supervisor.watch()
        async with asyncio.TaskGroup() as tasks:
            for place in range(1, self._count + 1):
                tasks.create_task(self._keep(place), name=f"worker {place}")
        if self._refused:
            raise Failure(["the workers could not start: see above"], self._refused)
        log.info("stopped")

    def _stop(self) -> None:
        self._supervisor.stopping()
        self._stopping.set()
        self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)

    async def _keep(self, place: int) -> None:
        waits = _waits()
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                code = await self._serve(place)
                ended = f"ended {_how(code)}"
            except OSError as error:  # no room for a process: the others must not end for that
                code, ended = None, f"could not be started: {error.strerror}"
            if self._stopping.is_set():
                return
            if code == 0:
                log.info("worker %d has left", place)
                return
            if code in (WRONG_CONFIGURATION, CANNOT_START) and place not in self._ready:
                self._refused = code
                self._stop()
                return
            if time.monotonic() - began >= _LIVED:
                waits = _waits()
            wait = next(waits)
            log.error("worker %d %s; started again in %g s", place, ended, wait)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait)

    async def _serve(self, place: int) -> int:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            env={**self._environment, **self._own(place)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        # A session of its own: Control-C reaches this process alone, which tells the workers.
        self._running[place] = process
        if self._stopping.is_set():
            process.terminate()
        try:
            assert process.stdout is not None
            while line := await _line_of(process.stdout):
                self._heard(place, line.decode(errors="replace").rstrip())
            return await process.wait()
        finally:
            del self._running[place]
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _own(self, place: int) -> dict[str, str]:
        """What differs between the workers."""
        bind = self._node_binds[place - 1]
        return {"TIDELINE__PLUGINS__HTTP__NODE_BIND": bind} if bind else {}

    def _heard(self, place: int, line: str) -> None:
        """Say once what all of them say of where they serve; and when the last of them has said it."""
        if line not in self._announced:
            click.echo(line)
        if line.startswith(("listening ", "storing ")):
            self._announced.add(line)
        if line.startswith("storing ") and place not in self._ready:
            self._ready.add(place)
            log.info("worker %d serves, process %d", place, self._running[place].pid)
            if len(self._ready) == self._count:
                click.echo(f"serving with {self._count} workers")
                self._supervisor.ready(f"{SERVES} with {self._count} workers")


async def _line_of(output: asyncio.StreamReader) -> bytes:
    """The next line; empty at the end. Of one that is too long, as a plugin may print it, some is lost."""
    while True:
        try:
            return await output.readline()
        except ValueError:
            log.warning("a worker wrote a line that is too long to pass on")


def stop_when_orphaned(stopping: asyncio.Event) -> None:
    """In a worker: set this when the process that started it is gone, however it ended; its end of the pipe is closed then."""
    if SECRET in os.environ:
        loop = asyncio.get_running_loop()

        def closed() -> None:
            loop.remove_reader(0)
            stopping.set()

        loop.add_reader(0, closed)


def _how(code: int) -> str:
    """An exit code for people."""
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _waits() -> Iterator[float]:
    wait = _FIRST_WAIT
    while True:
        yield wait
        wait = min(wait * 2, _LONGEST_WAIT)
