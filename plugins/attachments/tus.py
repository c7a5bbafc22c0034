"""The headers of tus 1.0.0 (https://tus.io/protocols/resumable-upload): creation, checksum, termination, expiration. No I/O."""

from __future__ import annotations

import base64
import hashlib
from email.utils import formatdate
from typing import Any

from plugins.timelines.errors import Problem, Unprocessable

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,termination,checksum,expiration"
ALGORITHMS = ("sha1", "sha256", "md5")
CONTENT_TYPE = "application/offset+octet-stream"
_NAMES = 16
"""Of metadata, at most."""


class WrongVersion(Problem):
    status, name, title = 412, "tus-version", "another version of tus"


class Malformed(Problem):
    status, name, title = 400, "malformed", "a header is not valid"


class Mismatch(Problem):
    status, name, title = 460, "checksum", "checksum mismatch"


class Unsupported(Problem):
    status, name, title = 415, "media-type", "not bytes at an offset"


def check_version(header: str | None) -> None:
    """Raise `WrongVersion` unless it is ours."""
    if header != VERSION:
        raise WrongVersion(f"Tus-Resumable {(header or '')[:20]!r}: must be {VERSION}")


def number(name: str, header: str | None) -> int:
    """A header that is a number of bytes. Raises `Malformed`."""
    if header is None or not (header.isascii() and header.isdigit() and len(header) < 19):
        raise Malformed(f"{name} {(header or '')[:20]!r}: must be a number of bytes")
    return int(header)


def metadata(header: str) -> dict[str, str]:
    """``Upload-Metadata``: names with values in base64, which are UTF-8 here. Raises `Malformed`."""
    found: dict[str, str] = {}
    for pair in header.split(",") if header.strip() else ():
        name, _, value = pair.strip().partition(" ")
        if name in found:
            raise Malformed(f"Upload-Metadata: {name[:40]!r} is given twice")
        try:
            found[name] = base64.b64decode(value.strip(), validate=True).decode()
        except ValueError:
            raise Malformed(f"Upload-Metadata: the value of {name[:40]!r} is not base64 of UTF-8") from None
    if len(found) > _NAMES:
        raise Malformed(f"Upload-Metadata: {len(found)} names; at most {_NAMES} are taken")
    return found


class Checksum:
    """``Upload-Checksum`` of one request. Raises `Malformed` for one that is not understood."""

    def __init__(self, header: str) -> None:
        algorithm, _, value = header.partition(" ")
        if algorithm not in ALGORITHMS:
            raise Malformed(f"Upload-Checksum {algorithm[:20]!r}: must be by {', '.join(ALGORITHMS)}")
        try:
            self._wanted = base64.b64decode(value.strip(), validate=True)
        except ValueError:
            raise Malformed("Upload-Checksum: the value is not base64") from None
        self._digest: Any = hashlib.new(algorithm, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """More has come."""
        self._digest.update(data)

    def check(self) -> None:
        """Raise `Mismatch` where what came is something else."""
        if self._digest.digest() != self._wanted:
            raise Mismatch("what came has another checksum: nothing of it is kept; send it again")


def date(milliseconds: int) -> str:
    """A time as HTTP says it."""
    return formatdate(milliseconds / 1000, usegmt=True)


def known_only(found: dict[str, str], known: tuple[str, ...]) -> None:
    """Raise `Unprocessable` for metadata that nobody would look at."""
    for name in found:
        if name not in known:
            raise Unprocessable(f"Upload-Metadata {name[:40]!r}: not known; there is {', '.join(known)}")
