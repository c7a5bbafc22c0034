"""A server that speaks MongoDB's wire protocol: the one that ``TIDELINE_TEST_MONGODB`` says, as for the tests."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from bench.peers.base import Peer, PeerError

GIVEN = os.environ.get("TIDELINE_TEST_MONGODB", "") or "nx-27017"
EXTERNAL = GIVEN if "://" in GIVEN else ""
"""The URL of a server that is not ours to start."""
_NX_27017 = Path(__file__).absolute().with_name("nx_27017_server.py")
_MEMORY = Path("/dev/shm")
_ENOUGH = 2 << 30
"""Bytes that must be free there."""


def command(program: str, directory: Path, port: int, *, in_turn: bool = False) -> list[str]:
    """How a server is started, so that it keeps what it acknowledged through a SIGKILL. Port 0 is any. ``in_turn``: nx-27017
    obeys one command after the other in one thread, which is less work."""
    place = ["--host", "127.0.0.1", "--port", str(port)]
    if program == "nx-27017":
        files = ["--data-dir", str(directory), "--log-file", str(directory / "log"), "--pid-file", str(directory / "pid")]
        return [sys.executable, "-P", str(_NX_27017), *(["--in-turn"] if in_turn else []), *place, *files]
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


class Mongo(Peer):
    """The server that was asked for. Where it is external, nothing is started."""

    name = title = "mongodb"
    ack_means = "fsync'd"
    start_timeout = 60.0

    def __init__(self, *, in_memory: bool = False) -> None:
        """``in_memory``: its files are in memory where the machine has room there, as nx-27017 writes 50 KB a message."""
        super().__init__()
        self.in_memory = in_memory and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ENOUGH

    def version(self) -> str:
        """Which server it is, without what a URL has of credentials."""
        if EXTERNAL:
            return "the server of TIDELINE_TEST_MONGODB"
        package = {"nx-27017": "nx-27017", "secantusdb": "SecantusDB"}.get(GIVEN, "")
        number = ""
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            number = " " + importlib.metadata.version(package) if package else ""
        return GIVEN + number + (" with its files in memory" if self.in_memory else "")

    def make_home(self) -> Path:
        """In memory where that is wanted."""
        return Path(tempfile.mkdtemp(prefix="tideline-bench-mongodb-", dir=_MEMORY if self.in_memory else None))

    def command(self) -> list[str]:
        """As the tests start it, but for the threads."""
        try:
            return command(GIVEN, self.home, self.port)
        except RuntimeError as error:
            raise PeerError(str(error)) from error

    def start(self) -> None:
        """Start it, where it is ours."""
        if not EXTERNAL:
            super().start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; of an external one its first host's."""
        if not EXTERNAL:
            return "127.0.0.1", self.port
        found = re.match(r"mongodb://(?:[^/]*@)?([^:/,]+)(?::(\d+))?", EXTERNAL)
        if found is None:
            raise PeerError("TIDELINE_TEST_MONGODB: a mongodb:// URL with the name of a host is needed here")
        return found[1], int(found[2] or 27017)

    def url(self, database: str, through: int = 0) -> str:
        """The URL of a database; ``through`` is the port of a proxy on 127.0.0.1 in front of the server."""
        host, port = ("127.0.0.1", through) if through else self.address
        credentials = (
            (EXTERNAL.partition("://")[2].partition("/")[0].rpartition("@")[0] + "@").removeprefix("@") if EXTERNAL else ""
        )
        query = [part for part in EXTERNAL.partition("?")[2].split("&") if part and "directconnection" not in part.lower()]
        return f"mongodb://{credentials}{host}:{port}/{database}?{'&'.join([*query, 'directConnection=true'])}"

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2):
            return True
        return False
