"""How a command asks the broker that runs: over its HTTP API, as the operator.

The broker leaves a file that only its owner can read, with its address and a secret (plugins.http.operator_file). No file, or
nobody listening there, means that no broker runs: the command then opens the data itself, under the lock of `tideline serve`.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from broker.cli.settings import CANNOT_START, Failure, read_settings
from broker.config import Settings

T = TypeVar("T")

DEFAULT_FILE = "data/operator.json"
_REFUSED = 1
USAGE = 2
"""The exit code where a value that was given is wrong."""
_PATIENCE = 10.0
"""Seconds for a broker to say that it is there."""
_QUIET = 60.0
"""Seconds without a line, after which nobody is there any more."""
_PLUGINS = {"users": "accounts", "me": "conversations", "erasures": "recall"}
"""The plugins whose calls are not below their own name."""


class Gone(Exception):
    """Nobody answers where the broker was. ``nobody``: nobody listens there either, so that none runs."""

    def __init__(self, text: str, *, nobody: bool = True) -> None:
        super().__init__(text)
        self.nobody = nobody

    @property
    def told(self) -> str:
        """For who has asked it a moment before."""
        return f"{self}; it ended meanwhile" if self.nobody else str(self)


class Refused(Failure):
    """The broker says no. ``status`` is that of its answer; 0 where it has no such call, as the plugin for it is not there."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__([reason], USAGE if status == 422 else _REFUSED)
        self.status = status


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """The API of a broker on this machine. Blocking, for commands."""

    url: str
    secret: str
    certfile: str = ""
    socket: str = ""
    """The file of the Unix socket where it listens; empty for ``url``'s port."""

    def get(self, path: str, timeout: float = 30.0) -> Any:
        """The answer's JSON. Raises `Gone`, and `Refused` with what the broker says against it."""
        return self._ask("GET", path, None, timeout)

    def post(self, path: str, body: object = None, timeout: float = 30.0) -> Any:
        """The same for a call that changes something."""
        return self._ask("POST", path, {} if body is None else body, timeout)

    def put(self, path: str, body: object, timeout: float = 30.0) -> Any:
        """The same for one that sets something."""
        return self._ask("PUT", path, body, timeout)

    def lines(self, path: str) -> Iterator[Any]:
        """What a call answers bit by bit: a JSON value a line, as it comes. Raises as `get`, also in the midst."""
        with self._open("GET", path, None, _QUIET) as response:
            try:
                yield from (json.loads(line) for line in response if line.strip())
            except (OSError, http.client.HTTPException) as error:
                raise Gone(f"{self.url} broke off: {error}") from error

    def patch(self, path: str, body: object, timeout: float = 30.0) -> Any:
        """The same for one that changes a part."""
        return self._ask("PATCH", path, body, timeout)

    def delete(self, path: str, timeout: float = 30.0) -> Any:
        """The same for one that ends something."""
        return self._ask("DELETE", path, None, timeout)

    def _ask(self, method: str, path: str, body: object, timeout: float) -> Any:
        with self._open(method, path, body, timeout) as response:
            try:
                text = response.read()
                return json.loads(text) if text else None
            except ValueError as error:
                raise Gone(f"{self.socket or self.url} answers what is no JSON", nobody=False) from error
            except (OSError, http.client.HTTPException) as error:
                raise self._gone(error, timeout) from error

    def _open(self, method: str, path: str, body: object, timeout: float) -> Any:
        headers = {"Authorization": f"Bearer {self.secret}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/v1{path}", data, headers, method=method)
        # No proxy is asked: the broker is on this machine.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=self._context()),
            *([_OverUnix(self.socket)] if self.socket else []),
        )
        try:
            return opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            reason, status = _reason(error), error.code
            # Each plugin has its calls below its own name.
            if error.code == 405 or (error.code == 404 and reason.startswith("no such path")):
                name = path.split("/")[1].partition("?")[0]
                reason, status = f"{_PLUGINS.get(name, name)} is not among the plugins of the running broker at {self.url}", 0
            raise Refused(reason, status) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error, timeout) from error

    def _gone(self, error: Exception, timeout: float) -> Gone:
        place, reason = self.socket or self.url, getattr(error, "reason", error)
        if isinstance(reason, ConnectionRefusedError | FileNotFoundError):
            return Gone(f"nobody answers at {place}: {reason}")
        if isinstance(reason, TimeoutError):
            return Gone(f"{place} did not answer in {timeout:g} s", nobody=False)
        return Gone(f"{place} cannot be asked: {reason}", nobody=False)

    def _context(self) -> ssl.SSLContext:
        """Trust the broker's own certificate, which is about the name that others call it by."""
        if not self.url.startswith("https:"):
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # nobody uses it; to read all authorities takes as long as to ask
        context = ssl.create_default_context(cafile=self.certfile or None)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


class _OverUnix(urllib.request.HTTPHandler):
    """Plain HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(_UnixConnection, self._path), req)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(config: Path | None, data: Path | None, call: Callable[[RunningBroker], T]) -> T:
    """What the broker of this configuration answers to a call. Raises `Failure` where none runs, or it says no."""
    broker = running_broker(read_settings(config, data))
    if broker is None:
        raise Failure(["no running broker was found on this machine; in a cluster any of its nodes is asked"], CANNOT_START)
    try:
        return call(broker)
    except Gone as error:
        raise Failure([error.told], CANNOT_START) from None


def running_broker(settings: Settings) -> RunningBroker | None:
    """The broker that runs on these settings' data, if its file is there and it answers.

    Raises `Failure` where there is a file that may not be read, and where somebody listens there who is of no use.
    """
    path = file_of(settings)
    if not path:
        return None
    try:
        written = json.loads(Path(path).read_text(encoding="utf-8"))
        url, secret = str(written["url"]), str(written["secret"])
        found = RunningBroker(url, secret, str(written.get("certfile", "")), str(written.get("socket", "")))
    except FileNotFoundError:
        return None
    except PermissionError:
        raise Failure([f"{path} belongs to another user: ask as the user who runs the broker"], CANNOT_START) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(
            [f"{path} cannot be read ({error}): remove it, the broker writes it when it starts"], CANNOT_START
        ) from None
    try:
        found.get("/me", timeout=_PATIENCE)
    except Gone as error:
        if error.nobody:
            return None  # left behind by a broker that was killed
        raise Failure([f"{error}; if no broker runs, remove {path}"], CANNOT_START) from None
    except Refused as error:
        answer = f"{found.socket or found.url} answered {error.status or 'that there is no such call'}: {error.message}"
        raise Failure([f"{answer}; if no broker runs, remove {path}"], CANNOT_START) from None
    return found


def forget_broker(settings: Settings, secret: str) -> None:
    """Remove the file of the broker with this secret, which has ended."""
    path = file_of(settings)
    with suppress(OSError, ValueError, KeyError, TypeError):
        if path and json.loads(Path(path).read_text(encoding="utf-8"))["secret"] == secret:
            Path(path).unlink()


def file_of(settings: Settings) -> str:
    """Where the broker leaves its file; empty for nowhere."""
    options = settings.plugins.get("http")
    return "" if options is None else str(options.get("operator_file", DEFAULT_FILE))


def _reason(error: urllib.error.HTTPError) -> str:
    """What a problem+json says, on one line, of values as the command names them: not by the part of a request."""
    try:
        problem = json.loads(error.read())
        if found := problem.get("errors"):
            return "; ".join(re.sub(r"^(body|query|path)\.", "", str(one["what"])) for one in found)
        return str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the broker answers {error.code} {error.reason}"
