"""A MongoDB to test against: a server process of our own, or one that runs elsewhere.

``TIDELINE_TEST_MONGODB`` says which: ``nx-27017`` (the default), ``secantusdb`` or ``secantusd-rs`` is started here, and killed
and frozen too; a ``mongodb://`` URL is a server that runs, on which each test makes a database and drops it.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from pymongo import AsyncMongoClient

from bench.peers.mongo import command
from storage.errors import StorageUnavailable
from storage.mongo import MongoStorage
from tests.support.until import until

GIVEN = os.environ.get("TIDELINE_TEST_MONGODB", "") or "nx-27017"
EXTERNAL = GIVEN if "://" in GIVEN else ""
"""The URL of a server that is not ours to kill."""
_START = 60.0
_LISTENING = re.compile(r"listening on \S*:(\d+)\s*$", re.IGNORECASE)


class MongoServer:
    """A server process on an ephemeral port of 127.0.0.1, with its data in ``directory``; it keeps its port over restarts.
    ``in_turn``: nx-27017 obeys in one thread (`bench.peers.nx_27017_server`)."""

    def __init__(self, directory: Path, program: str = "", *, in_turn: bool = True) -> None:
        self.directory = directory
        self.in_turn = in_turn
        self.program = program or ("nx-27017" if EXTERNAL else GIVEN)
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start, and return once it listens."""
        self.directory.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            command(self.program, self.directory.absolute(), self.port, in_turn=self.in_turn),
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.process = process
        listening = threading.Event()

        def read() -> None:  # goes on until the process ends, so that it never blocks on a full pipe
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    if found := _LISTENING.search(line):
                        self.port = int(found[1])
                        listening.set()
            listening.set()

        threading.Thread(target=read, daemon=True).start()
        if not listening.wait(_START) or process.poll() is not None:
            self.kill()
            raise RuntimeError(f"{self.program} did not start in {_START:g} s")

    def kill(self) -> None:
        """SIGKILL, as a machine that loses power; what it has not written is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        """SIGKILL and start again on the same data and port."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop answering, with all connections open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def url(self, database: str, options: str = "") -> str:
        """The URL of a database of this server."""
        return with_options(f"mongodb://127.0.0.1:{self.port}/{database}", DIRECT, options)


class PatientStorage(MongoStorage):
    """Opens as a broker does it that starts together with its database, again and again: where a test gives the driver little
    time to find the server, as it takes the server away, a busy machine may take longer for the first time."""

    async def open(self) -> None:
        await until(self._opens, "the database is open")

    async def _opens(self) -> bool:
        try:
            await super().open()
        except StorageUnavailable:
            return False
        return True


DIRECT = "directConnection=true"
"""A server that announces a replica set says where its members are, and the driver would go there, around a proxy."""


_MEMORY = Path("/dev/shm")
_ENOUGH = 2 << 30
"""Bytes that must be free there: a container has 64 MiB unless told otherwise."""


@contextmanager
def own_server(port: int = 0, *, in_turn: bool = True) -> Iterator[MongoServer]:
    """A server that is started, and gone with its data at the end.

    Its files are in memory where the machine has room for them there. A SIGKILL loses none of what a process has written to
    files, whatever they are on, and nx-27017 writes 50 KB for each message, which the tests would otherwise wait for.
    """
    memory = str(_MEMORY) if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ENOUGH else None
    with tempfile.TemporaryDirectory(prefix="tideline-mongo-", dir=memory) as directory:
        server = MongoServer(Path(directory), in_turn=in_turn)
        server.port = port
        server.start()
        try:
            yield server
        finally:
            server.kill()


@cache
def shared_server() -> MongoServer:
    """One server for all tests of this process that don't kill it."""
    stack = ExitStack()
    server = stack.enter_context(own_server())
    atexit.register(stack.close)
    return server


def address() -> tuple[str, int]:
    """Host and port of the server to test against."""
    if not EXTERNAL:
        return "127.0.0.1", shared_server().port
    host, _, port = EXTERNAL.partition("://")[2].partition("/")[0].rpartition("@")[2].partition(",")[0].partition(":")
    return host, int(port or "27017")


_NEVER_AWAY = "serverSelectionTimeoutMS=30000&connectTimeoutMS=30000&socketTimeoutMS=120000"
"""A machine that does ten things at once may need longer than the backend gives a server that may be away."""


def url(database: str, options: str = "", *, through: int = 0) -> str:
    """The URL of a database; ``through`` is the local port of a proxy in front of the server, which may be stopped."""
    patience = "" if through else _NEVER_AWAY
    if not EXTERNAL:
        return with_options(f"mongodb://127.0.0.1:{through or shared_server().port}/{database}", DIRECT, patience, options)
    scheme, _, rest = EXTERNAL.partition("://")
    hosts, _, tail = rest.partition("/")
    if through:
        credentials, at, _ = hosts.rpartition("@")
        hosts = f"{credentials}{at}127.0.0.1:{through}"
    return with_options(f"{scheme}://{hosts}/{database}", tail.partition("?")[2], patience, DIRECT if through else "", options)


def with_options(address: str, *queries: str) -> str:
    """A URL with options, each once: what a later query says holds, as the driver refuses one that is given twice."""
    options: dict[str, str] = {}
    for query in queries:
        for option in filter(None, query.split("&")):
            options[option.partition("=")[0].lower()] = option
    return f"{address}?{'&'.join(options.values())}" if options else address


def new_database() -> str:
    """A name that no other test uses."""
    return f"tideline_{uuid.uuid4().hex}"


async def drop(database: str) -> None:
    """Remove a test's database, but from Secantus, which takes up to a minute for it and ends with the tests."""
    if GIVEN.startswith("secantus"):
        return
    async with AsyncMongoClient[dict[str, object]](url(database)) as client:
        await client.drop_database(database)
