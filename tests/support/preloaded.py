"""``tideline``, or another module, as a process of its own, forked from one that has imported it: hundreds of tests start one,
and the imports are most of what a start costs.

Everything else is a start's own: arguments, environment, folder, files, and whatever is done to it by signals. Starts from
nothing are in `tests/cli/test_serve.py`, `tests/deploy` and wherever a limit of the process matters.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

from broker.config.plugins import ALIASES

ROOT = Path(__file__).resolve().parents[2]
_LONGEST = 1 << 20


def completed(
    arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """``tideline`` with `arguments`, and nothing to read, once it has ended: as `subprocess.run` tells it."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = Preloaded(arguments, cwd=cwd, env=env, log=err, out=out)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        told = []
        for file in (out, err):
            file.seek(0)
            told.append(file.read().decode())
    return subprocess.CompletedProcess(arguments, code, *told)


class Preloaded:
    """A process of ``tideline``, or of another `module`; what tests use of `subprocess.Popen`, by the same names.

    ``stdout`` is what it writes, line by line, where `piped`; otherwise it goes to `out`, or nowhere. Standard error goes to
    `log`, and without one to that of the tests.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        log: IO[bytes] | None = None,
        piped: bool = False,
        out: IO[bytes] | None = None,
        module: str = "broker.cli",
    ) -> None:
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        self._parent = _parent()
        writes = None
        if piped:
            reads, writes = os.pipe()
            self.stdout = os.fdopen(reads, encoding="utf-8")
        with open(os.devnull, "r+b") as nowhere:
            told = writes if writes is not None else (out or nowhere).fileno()
            files = [nowhere.fileno(), told, log.fileno() if log is not None else 2]
            request = {"module": module, "arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}
            self.pid = self._parent.start(request, files)
        if writes is not None:
            os.close(writes)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._parent.ended(self.pid, 0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises `subprocess.TimeoutExpired` where it has not ended by then."""
        if self.returncode is None:
            self.returncode = self._parent.ended(self.pid, timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("tideline", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended, and the news of that is on its way
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Parent:
    """The process that has imported all, as seen by the tests."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
        with theirs:
            self._process = subprocess.Popen(  # it ends when the tests do, as nobody has the other end of its socket then
                [sys.executable, "-m", "tests.support.preloaded", str(theirs.fileno())],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._starting = threading.Lock()
        self._news = threading.Condition()
        self._started: list[int] = []
        self._codes: dict[int, int] = {}
        self._gone = False
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, request: Mapping[str, object], files: list[int]) -> int:
        with self._starting:
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
            with self._news:
                self._news.wait_for(lambda: self._started or self._gone)
                assert self._started, "the process that starts others has ended"
                return self._started.pop()

    def ended(self, pid: int, timeout: float | None) -> int | None:
        with self._news:
            self._news.wait_for(lambda: pid in self._codes or self._gone, timeout)
            return self._codes.pop(pid, None)

    def _listen(self) -> None:
        while news := self._socket.recv(_LONGEST):
            pid, code = json.loads(news)
            with self._news:
                if code is None:
                    self._started.append(pid)
                else:
                    self._codes[pid] = code
                self._news.notify_all()
        with self._news:
            self._gone = True
            self._news.notify_all()


_parent = cache(_Parent)


def _serve(given: socket.socket) -> None:
    """Fork whoever is asked for, and say how they end, until nobody can ask any more."""
    _import()
    assert threading.active_count() == 1, "a process with threads must not fork"
    wakes, woken = socket.socketpair()
    woken.setblocking(False)
    wakes.setblocking(False)
    signal.set_wakeup_fd(woken.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([given, wakes], [], [])
        if wakes in ready:
            wakes.recv(4096)
            _tell_ends(given)
        if given in ready:
            request, files, _, _ = socket.recv_fds(given, _LONGEST, 3)
            if not request:
                return
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for one in (given, wakes, woken):
                    one.close()
                _become(json.loads(request), files)
            for file in files:
                os.close(file)
            given.send(json.dumps([pid, None]).encode())


def _tell_ends(given: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        given.send(json.dumps([pid, os.waitstatus_to_exitcode(status)]).encode())


def _import() -> None:
    """What a broker imports with any of the plugins, over any storage, and the command line."""
    import broker.cli
    import storage.mongo
    import storage.sqlite  # noqa: F401

    with suppress(ImportError):
        import uvloop  # noqa: F401
    for plugin in ALIASES.values():
        module_name, _, name = plugin.rpartition(".")
        with suppress(ImportError):  # of a library that is an extra
            getattr(importlib.import_module(module_name), name)
    for module in pkgutil.iter_modules(broker.cli.__path__):
        if module.name != "__main__":
            importlib.import_module(f"broker.cli.{module.name}")
    gc.freeze()  # whoever is forked looks for no garbage among what it shares, which would copy it


def _become(request: dict[str, object], files: list[int]) -> NoReturn:
    """Go on as ``python -m`` does with a module, and never come back."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as it lives
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as it lives
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(str(request["cwd"]))
    given, arguments, module = request["env"], request["arguments"], request["module"]
    assert isinstance(given, dict)
    assert isinstance(arguments, list)
    assert isinstance(module, str)
    os.environ.clear()
    os.environ.update(given)
    sys.path[0] = str(request["cwd"])
    sys.argv = [module, *arguments]
    code: object = None
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    if not isinstance(code, int | None):
        sys.exit(code)  # type: ignore[arg-type]
    # As Python ends, but for taking all modules apart, which is a third of what a start and an end cost.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
