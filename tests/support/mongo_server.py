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
import sys
import tempfile
import threading
import uuid
from functools import cache
from pathlib import Path

from pymongo import AsyncMongoClient

GIVEN = os.environ.get("TIDELINE_TEST_MONGODB", "") or "nx-27017"
EXTERNAL = GIVEN if "://" in GIVEN else ""
"""The URL of a server that is not ours to kill."""
_START = 60.0
_LISTENING = re.compile(r"listening on \S*:(\d+)\s*$", re.IGNORECASE)


def command(program: str, directory: Path, port: int) -> list[str]:
    """How a server is started, so that it keeps what it acknowledged through a SIGKILL. Port 0 is any."""
    place = ["--host", "127.0.0.1", "--port", str(port)]
    if program == "nx-27017":
        files = ["--data-dir", str(directory), "--log-file", str(directory / "log"), "--pid-file", str(directory / "pid")]
        return [sys.executable, "-m", "nx_27017.nx_27017", *place, *files]
    # Secantus acknowledges before it is on disk unless told; with a cache of 64M its Rust build stands still under load.
    storage = ["--storage-path", str(directory / "data"), "--sync-on-commit", "--cache-size", "512M"]
    if program == "secantusdb":
        return [sys.executable, "-m", "secantus", *place, *storage]
    if program == "secantusd-rs":
        found = shutil.which(program)
        if found is None:
            raise RuntimeError("secantusd-rs is not on the PATH: docs/mongodb.md says how it is installed")
        return [found, *place, *storage]
    raise RuntimeError(
        f"TIDELINE_TEST_MONGODB={program}: it must be nx-27017, secantusdb, secantusd-rs, or the mongodb:// URL of a server"
    )


class MongoServer:
    """A server process on an ephemeral port of 127.0.0.1, with its data in ``directory``; it keeps its port over restarts."""

    def __init__(self, directory: Path, program: str = "") -> None:
        self.directory = directory
        self.program = program or ("nx-27017" if EXTERNAL else GIVEN)
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start, and return once it listens."""
        self.directory.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            command(self.program, self.directory.absolute(), self.port),
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


DIRECT = "directConnection=true"
"""A server that announces a replica set says where its members are, and the driver would go there, around a proxy."""


@cache
def shared_server() -> MongoServer:
    """One server for all tests of this process that don't kill it."""
    directory = tempfile.TemporaryDirectory(prefix="tideline-mongo-")
    server = MongoServer(Path(directory.name))
    server.start()
    atexit.register(directory.cleanup)
    atexit.register(server.kill)
    return server


def address() -> tuple[str, int]:
    """Host and port of the server to test against."""
    if not EXTERNAL:
        return "127.0.0.1", shared_server().port
    host, _, port = EXTERNAL.partition("://")[2].partition("/")[0].rpartition("@")[2].partition(",")[0].partition(":")
    return host, int(port or "27017")


def url(database: str, options: str = "", *, through: int = 0) -> str:
    """The URL of a database; ``through`` is the local port of a proxy in front of the server."""
    if not EXTERNAL:
        return with_options(f"mongodb://127.0.0.1:{through or shared_server().port}/{database}", DIRECT, options)
    scheme, _, rest = EXTERNAL.partition("://")
    hosts, _, tail = rest.partition("/")
    if through:
        credentials, at, _ = hosts.rpartition("@")
        hosts = f"{credentials}{at}127.0.0.1:{through}"
    return with_options(f"{scheme}://{hosts}/{database}", tail.partition("?")[2], DIRECT if through else "", options)


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
