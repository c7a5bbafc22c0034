"""Where ``tideline`` begins: a ^C while modules are still imported ends it as it ends any program, without a traceback.

And where it ends when what it tells cannot be written: with a line on standard error and exit code 1.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from broker.cli.interrupts import importing


def main() -> None:
    """Import the command line, and run the command that is asked for."""
    if sys.argv[1:2] == ["serve"] and hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it can read again, nothing has to be read again
    with importing():
        from broker.cli.main import main as command
    if sys.argv[1:2] == ["serve"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # most of its modules are still to be imported
    if sys.stdout is not None:
        given = sys.stdout
        sys.stdout = Output(given.buffer, given.encoding, given.errors, line_buffering=bool(given.line_buffering))
    try:
        command()
    except Unwritten as error:
        print(f"tideline: cannot write to standard output: {error.strerror}", file=sys.stderr)
        sys.exit(1)


class Unwritten(OSError):
    """What was told could not be written, as on a full disk."""


class Output(io.TextIOWrapper):
    """Standard output. Raises `Unwritten`, and from then on all goes nowhere; a pipe that nobody reads is left to click."""

    def write(self, text: str, /) -> int:
        with self._writing():
            return super().write(text)

    def flush(self) -> None:
        with self._writing():
            super().flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # what is left of it would fail at the end of the process, too
            os.close(nowhere)
            raise Unwritten(error.errno, error.strerror) from error
