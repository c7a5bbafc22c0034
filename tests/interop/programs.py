"""Other people's programs as processes: what they print, line by line, and what is missing where they aren't installed."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import pytest

from tests.support.laws_process import PATIENCE, ROOT

PACKAGES = ROOT / ".venv" / "interop"
"""Where `make interop` puts what comes from npm and from PyPI."""
NPM = PACKAGES / "npm" / "node_modules"


def needs(program: str, package: str) -> pytest.MarkDecorator:
    """Skips a test where there is no such program, and says which package has it."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is missing: install {package}")


def npm_needs(package: str) -> pytest.MarkDecorator:
    """Skips a test where `make interop` could not install an npm package."""
    reason = f"{package} is missing: npm could not install it (tests/interop/npm/package.json)"
    return pytest.mark.skipif(not (NPM / package).is_dir(), reason=reason)


def run(*command: str, stdin: str | None = None, patience: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """A program that ends by itself, and its output."""
    return subprocess.run(command, input=stdin or "", capture_output=True, text=True, timeout=patience, check=False)


def ok(*command: str, stdin: str | None = None) -> str:
    """The output of a program that must end well."""
    done = run(*command, stdin=stdin)
    assert done.returncode == 0, f"{command}: {done.returncode}, {done.stdout}{done.stderr}"
    return done.stdout


class Program:
    """A program that runs until it is told to stop; its output, errors included, as lines in the order they came.

    `stdbuf` (coreutils) makes C programs print each line when it is whole, as on a terminal.
    """

    def __init__(self, *command: str, env: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            ["stdbuf", "-oL", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
            env=env,
        )
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def line(self, wanted: Callable[[str], Any] | str, patience: float = PATIENCE) -> str:
        """Take the next line that is wanted: by a predicate, or by its beginning. Others stay for whoever wants them."""
        wants = wanted if callable(wanted) else lambda line: line.startswith(wanted)
        looked = 0

        def found() -> int | None:
            nonlocal looked
            for number in range(looked, len(self._lines)):
                if wants(self._lines[number]):
                    return number
            looked = len(self._lines)
            return None

        with self._changed:
            self._changed.wait_for(lambda: found() is not None or self._ended, patience)
            number = found()
            assert number is not None, f"no line {wanted}{', and it ended' if self._ended else ''}; it said {self._lines[-20:]}"
            return self._lines.pop(number)

    def seen(self, beginning: str) -> list[str]:
        """The lines so far that begin like this and were not taken."""
        with self._changed:
            return [line for line in self._lines if line.startswith(beginning)]

    def rest(self) -> list[str]:
        """The lines that are left when the program has ended by itself."""
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return self._lines

    def tell(self, line: str) -> None:
        """A line of input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        self._process.terminate()
        self._process.wait(PATIENCE)

    def kill(self) -> None:
        """SIGKILL: its peer hears nothing but that the connection is gone."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()
        self._reader.join(PATIENCE)
        for stream in (self._process.stdout, self._process.stdin):
            assert stream is not None
            stream.close()
