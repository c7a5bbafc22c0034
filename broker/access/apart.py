"""Argon2 hashes that are checked in a process of their own, which takes only what nobody else wants of the processors.

A hash keeps every core busy for some 50 ms. A flood of wrong passwords would so hold up everybody's messages, whatever the
priority of its thread: one that was given less has to wait with the interpreter's lock in its hand. So the thread that works
for suspects (`broker.access.logins`) asks another process, of the lowest class that there is (SCHED_IDLE on Linux). It does so
only while there are many: who mistyped a password on a machine that is busy gets an answer as ever.

The process ends when its stdin does: no later than the broker, however that ends. Where none can be started, hashes are checked
here.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time

import argon2

logger = logging.getLogger(__name__)

_CHILD = """
import json, os, sys
import argon2
os.nice(19)
if hasattr(os, "SCHED_IDLE"):
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
hasher = argon2.PasswordHasher()
for line in sys.stdin.buffer:
    kept, secret = json.loads(line)
    try:
        right = hasher.verify(kept, bytes.fromhex(secret))
    except argon2.exceptions.VerificationError:
        right = False
    print(int(right), flush=True)
"""

_FEW, _MOST = 4.0, 30.0
"""More hashes than that are a flood. Each second in which none is checked forgets one; what is beyond the second figure is not
counted."""

_here = threading.local()


class Apart:
    """One such process, begun when it is first needed. For one thread, until another closes it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._recent = 0.0
        self._seen = time.monotonic()

    def use(self) -> None:
        """What this thread checks from here on is checked there."""
        _here.apart = self

    def verify(self, kept: str, secret: bytes) -> bool:
        """Whether the hash is the secret's."""
        try:
            said = self._ask(kept, secret) if self._flooded() else None
            return _verify(kept, secret) if said is None else said
        finally:
            self._seen = time.monotonic()  # what waits for a processor is no less of a flood

    def _ask(self, kept: str, secret: bytes) -> bool | None:
        """What the process says; None where it says nothing."""
        process = self._started()
        if process is None or process.stdin is None or process.stdout is None:
            return None
        try:
            process.stdin.write(json.dumps([kept, secret.hex()]).encode() + b"\n")
            process.stdin.flush()
            said = process.stdout.readline()
        except (OSError, ValueError):
            said = b""
        if said.strip() not in (b"0", b"1"):
            self._end()
            return None
        return said.strip() == b"1"

    def _flooded(self) -> bool:
        now = time.monotonic()
        self._recent = min(_MOST, max(0.0, self._recent - (now - self._seen)) + 1)
        return self._recent > _FEW

    def _started(self) -> subprocess.Popen[bytes] | None:
        if self._process is None and not self._closed:
            environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDELINE")}
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _CHILD],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                )
            except OSError as error:
                logger.warning("wrong passwords are checked in this process, another cannot be started: %s", error)
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def close(self) -> None:
        """End the process; who waits for its answer gets none."""
        self._closed = True
        self._end()


def verify(kept: str, secret: bytes) -> bool:
    """Whether an Argon2 hash is the secret's. Blocks, some 0.1 s."""
    apart: Apart | None = getattr(_here, "apart", None)
    return _verify(kept, secret) if apart is None else apart.verify(kept, secret)


def _verify(kept: str, secret: bytes) -> bool:
    try:
        return argon2.PasswordHasher().verify(kept, secret)
    except argon2.exceptions.VerificationError:
        return False
