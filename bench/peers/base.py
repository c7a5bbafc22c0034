"""A broker as a subprocess: its own configuration, its own directory, an ephemeral port on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import ClassVar

from bench import users, wire
from bench.peers import certificate
from bench.shapes import Shape


class PeerError(Exception):
    """A broker cannot be started; the text says why and what to do."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Peer:
    """One broker. A subclass says how to start it; `start` and `stop` may alternate, each start has empty data."""

    name: ClassVar[str]
    title: ClassVar[str]
    ack_means: ClassVar[str]
    """What has happened to a message when its PUBACK is sent."""
    package: ClassVar[str] = ""
    """The Debian package that it comes in, where it does."""
    start_timeout: ClassVar[float] = 20.0
    transports: ClassVar[tuple[str, ...]] = ("tcp",)
    """What `transport` may be: ``tcp``, ``tls`` or ``ws``, a plain WebSocket on ``/mqtt``."""
    may_rule: ClassVar[bool] = False
    """Whether `ruled` may be true."""

    def __init__(self) -> None:
        """Not started."""
        self.transport = "tcp"
        """What the next start listens for at ``port``."""
        self.ruled = False
        """Whether it has the users and rules of `bench.users` from the next start on, and lets nobody else in."""
        self.port = 0
        self.home = Path()
        self._process: subprocess.Popen[bytes] | None = None

    def suits(self, shape: Shape) -> bool:
        """Whether it can be what the shape's clients need."""
        return self.name not in shape.skip and shape.transport in self.transports and (self.may_rule or not shape.ruled)

    def suit(self, shape: Shape) -> None:
        """Be that from the next start on. It is stopped where it is something else now."""
        wanted = shape.transport, shape.ruled
        if wanted != (self.transport, self.ruled):
            self.stop()
            self.transport, self.ruled = wanted

    def missing(self) -> str:
        """How to install it, or nothing where it is installed."""
        return debian(self.package) if self.package else ""

    def version(self) -> str:
        """Its version, or nothing where nobody knows."""
        if not self.package or not shutil.which("dpkg-query"):
            return ""
        asked = ["dpkg-query", "-W", "-f", "${Version}", self.package]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()

    def command(self) -> list[str]:
        """Write the configuration into ``home`` for ``port`` and return the command that serves in the foreground."""
        raise NotImplementedError

    def login(self) -> dict[str, str]:
        """``user`` and ``password`` that subscribers log in with; nothing for anonymous ones."""
        return {}

    def environment(self) -> dict[str, str]:
        """Environment variables in addition to ours."""
        return {}

    def prepare(self) -> None:
        """What has to run before the command."""

    def clean_up(self) -> None:
        """What has to end after it."""

    @property
    def pid(self) -> int:
        """Process id of the command."""
        if self._process is None:
            raise PeerError(f"{self.name} is not started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def make_home(self) -> Path:
        """A new directory for the data; the caller of `stop` loses it."""
        return Path(tempfile.mkdtemp(prefix=f"tideline-bench-{self.name}-"))

    def start(self) -> None:
        """Start it and wait until it answers a CONNECT. Raises `PeerError` with the end of its log."""
        if hint := self.missing():
            raise PeerError(hint)
        self.home = self.make_home()
        self.port = free_port()
        try:
            self.prepare()
            with (self.home / "log.txt").open("wb") as log:
                self._process = subprocess.Popen(
                    self.command(),
                    env=os.environ | self.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._wait_answer()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ask it to end, then make it; remove its data. May be called when it does not run."""
        if self._process is not None:
            process, self._process = self._process, None
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.clean_up()
        self.remove_home()

    def remove_home(self) -> None:
        """Remove the data directory."""
        if self.home != Path():
            shutil.rmtree(self.home, ignore_errors=True)
            self.home = Path()

    def _wait_answer(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        while time.monotonic() < deadline:
            if not self.alive:
                raise PeerError(f"{self.name} ended at once: {self.last_words()}")
            if self._answers():
                return
            time.sleep(0.1)
        raise PeerError(f"{self.name} did not answer within {self.start_timeout:g} s: {self.last_words()}")

    def certificate(self) -> tuple[Path, Path]:
        """The files of a new one and its key, in ``home``."""
        return certificate.write(self.home)

    def _answers(self) -> bool:
        if self.transport != "tcp":  # the generator's first client will see whether more than the port is there
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2):
                return True
            return False
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2) as probe:
            probe.sendall(wire.connect("bench-probe", login=users.login(0) if self.ruled else None))
            answer = probe.recv(4)
            if answer[:1] == bytes([wire.CONNACK]):
                if answer[3]:
                    raise PeerError(f"{self.name} refuses the first client with code {answer[3]}")
                probe.sendall(wire.disconnect())
                return True
        return False

    def last_words(self) -> str:
        """The end of its log."""
        try:
            lines = (self.home / "log.txt").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return " | ".join(line.strip() for line in lines[-3:]) or "nothing in its log"


_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def debian(package: str) -> str:
    """How to install the Debian package whose program has its name, or nothing where it is installed."""
    if shutil.which(package, path=_PATH):
        return ""
    return f"{package} is not installed: apt-get install {package}"


def program(name: str) -> str:
    """Full path of a program that may lie in sbin."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise PeerError(f"{name} is not installed")
    return found
