"""A MongoDB to test against: an `nx-27017` process of our own, or the server that ``TIDELINE_TEST_MONGODB`` names."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from functools import cache
from pathlib import Path

from pymongo import AsyncMongoClient

EXTERNAL = os.environ.get("TIDELINE_TEST_MONGODB", "")
"""A ``mongodb://`` URL. A database of its own is made on it per test, and dropped."""
_START = 30.0


class MongoServer:
    """A server process on an ephemeral port of 127.0.0.1, with its data in ``directory``; it keeps its port over restarts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start, and return once it listens."""
        self.directory.mkdir(parents=True, exist_ok=True)
        arguments = ["--data-dir", str(self.directory), "--host", "127.0.0.1", "--port", str(self.port)]
        arguments += ["--log-file", str(self.directory / "log"), "--pid-file", str(self.directory / "pid")]
        process = subprocess.Popen(
            [sys.executable, "-m", "nx_27017.nx_27017", *arguments],
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.process = process
        listening = threading.Event()

        def read() -> None:  # goes on until the process ends, so that it never blocks on a full pipe
            assert process.stderr is not None
            with process.stderr:
                for line in process.stderr:
                    if "Listening on" in line:
                        self.port = int(line.rsplit(":", 1)[1])
                        listening.set()
            listening.set()

        threading.Thread(target=read, daemon=True).start()
        if not listening.wait(_START) or process.poll() is not None:
            self.kill()
            raise RuntimeError(f"nx-27017 did not start in {_START:g} s")

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
        return f"mongodb://127.0.0.1:{self.port}/{database}" + (f"?{options}" if options else "")


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
        port = through or shared_server().port
        return f"mongodb://127.0.0.1:{port}/{database}" + (f"?{options}" if options else "")
    scheme, _, rest = EXTERNAL.partition("://")
    hosts, _, tail = rest.partition("/")
    given = tail.partition("?")[2]
    if through:
        credentials, at, _ = hosts.rpartition("@")
        hosts = f"{credentials}{at}127.0.0.1:{through}"
        options = "&".join(filter(None, (options, "directConnection=true&retryWrites=false")))
    query = "&".join(filter(None, (given, options)))
    return f"{scheme}://{hosts}/{database}" + (f"?{query}" if query else "")


def new_database() -> str:
    """A name that no other test uses."""
    return f"tideline_{uuid.uuid4().hex}"


async def drop(database: str) -> None:
    """Remove a test's database."""
    async with AsyncMongoClient[dict[str, object]](url(database)) as client:
        await client.drop_database(database)
