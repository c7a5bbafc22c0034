"""How a command on this machine becomes the operator of the broker that runs: by a file that only its owner can read.

The broker writes it when the API listens, with a secret of that run, and removes it when it stops. Whoever can read it can
read the data beside it too. `broker.cli.ask` is the other side.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from storage.private import make_folder

log = logging.getLogger(__name__)


class OperatorFile:
    """The file at ``path``; an empty path is none, and then no secret is accepted."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        # Workers of one `tideline serve` listen on one port: any of them takes the secret that any other wrote. So one that
        # ends leaves the file to the others; their parent removes it.
        common = os.environ.get("TIDELINE_WORKERS_SECRET", "")
        self._common = bool(common)
        self.secret = (common or secrets.token_urlsafe(32)) if path else ""

    def is_it(self, secret: str) -> bool:
        """Whether somebody knows the secret of this run."""
        return bool(self.secret) and hmac.compare_digest(secret.encode(errors="surrogateescape"), self.secret.encode())

    def write(self, url: str, certfile: str, socket: str) -> None:
        """Say where the API is (``socket``: the file of its Unix socket, or empty), and the secret. What keeps it from being
        written is logged: commands then cannot ask."""
        if self._path is None:
            return
        written = {"url": url, "secret": self.secret, "process": os.getpid()}
        if socket:
            written["socket"] = str(Path(socket).absolute())
        if certfile:
            written["certfile"] = str(Path(certfile).absolute())
        try:
            make_folder(self._path.parent)
            handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")  # mode 0600
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(written, file)
            os.replace(name, self._path)
        except OSError as error:
            log.warning(
                "http: %s cannot be written: %s; `tideline` commands cannot ask this broker", self._path, error.strerror
            )

    def remove(self) -> None:
        """Remove it, unless another broker has written its own meanwhile."""
        if self._path is None or self._common:
            return
        with suppress(OSError, ValueError):
            if json.loads(self._path.read_text(encoding="utf-8")).get("secret") == self.secret:
                self._path.unlink()
