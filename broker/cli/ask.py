"""How a command asks the broker that runs: over its HTTP API, as the operator.

The broker leaves a file that only its owner can read, with its address and a secret (plugins.http.operator_file). No file, or
nobody listening there, means that no broker runs: the command then opens the data itself, under the lock of `tideline serve`.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.cli.settings import CANNOT_START, Failure
from broker.config import Settings

DEFAULT_FILE = "data/operator.json"
_REFUSED = 1


class Gone(Exception):
    """Nobody listens where the broker was."""


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """The API of a broker on this machine. Blocking, for commands."""

    url: str
    secret: str
    certfile: str = ""

    def get(self, path: str, timeout: float = 30.0) -> Any:
        """The answer's JSON. Raises `Gone`, and `Failure` with what the broker says against it."""
        return self._ask("GET", path, None, timeout)

    def post(self, path: str, body: object = None, timeout: float = 30.0) -> Any:
        """The same for a call that changes something."""
        return self._ask("POST", path, {} if body is None else body, timeout)

    def delete(self, path: str, timeout: float = 30.0) -> Any:
        """The same for one that ends something."""
        return self._ask("DELETE", path, None, timeout)

    def _ask(self, method: str, path: str, body: object, timeout: float) -> Any:
        headers = {"Authorization": f"Bearer {self.secret}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/v1{path}", data, headers, method=method)
        # No proxy is asked: the broker is on this machine.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context())
        )
        try:
            with opener.open(request, timeout=timeout) as response:
                text = response.read()
        except urllib.error.HTTPError as error:
            told = _told(error)
            if error.code == 404 and told.startswith("no such path"):  # each plugin has its calls below its own name
                told = f"{path.split('/')[1]} is not among the plugins of the running broker at {self.url}"
            raise Failure([told], _REFUSED) from None
        except (OSError, urllib.error.URLError) as error:
            raise Gone(f"nobody answers at {self.url}: {getattr(error, 'reason', error)}") from error
        return json.loads(text) if text else None

    def _context(self) -> ssl.SSLContext:
        """Trust the broker's own certificate, which is about the name that others call it by."""
        context = ssl.create_default_context(cafile=self.certfile or None)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def running_broker(settings: Settings) -> RunningBroker | None:
    """The broker that runs on these settings' data, if its file is there and it answers.

    Raises `Failure` where there is a file that may not be read.
    """
    options = settings.plugins.get("http")
    path = "" if options is None else str(options.get("operator_file", DEFAULT_FILE))
    if not path:
        return None
    try:
        written = json.loads(Path(path).read_text(encoding="utf-8"))
        found = RunningBroker(str(written["url"]), str(written["secret"]), str(written.get("certfile", "")))
    except FileNotFoundError:
        return None
    except PermissionError:
        raise Failure([f"{path} belongs to another user: ask as the user who runs the broker"], CANNOT_START) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(
            [f"{path} cannot be read ({error}): remove it, the broker writes it when it starts"], CANNOT_START
        ) from None
    try:
        found.get("/me", timeout=10.0)
    except Gone:
        return None  # left behind by a broker that was killed
    return found


def _told(error: urllib.error.HTTPError) -> str:
    """What a problem+json says, on one line."""
    try:
        return str(json.loads(error.read())["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the broker answers {error.code} {error.reason}"
