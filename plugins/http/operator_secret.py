"""The operator's credential for scripts and other machines: a secret in a file that stays the same over restarts.

Commands on this machine use the secret of one run (`plugins.http.operator_file`): what they send is worth nothing to whoever
listens on the port after the broker has ended. To roll this one, remove the file, or write another, and then ``tideline
reload``.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
from pathlib import Path

from broker.errors import StartError
from storage.private import make_folder

log = logging.getLogger(__name__)

PREFIX = "op_"
_SHORTEST = 20


class OperatorSecret:
    """The secret beside the operator file at ``path``, made there where it is missing; an empty path is none."""

    def __init__(self, path: str) -> None:
        self._path = Path(path).with_suffix(".secret") if path else None
        self._digest = b""

    def read(self) -> bool:
        """Read it, or make it; whether it is another than before. Raises `StartError`, and the old one stays."""
        if self._path is None:
            return False
        before, self._digest = self._digest, _digest(_read(self._path) or _make(self._path))
        return self._digest != before

    def is_it(self, secret: str) -> bool:
        """Whether somebody knows it, in a time that says nothing."""
        return bool(self._digest) and hmac.compare_digest(_digest(secret), self._digest)


def _digest(secret: str) -> bytes:
    return hmac.digest(b"operator", secret.encode(errors="surrogateescape"), "sha256") if secret else b""


def _read(path: Path) -> str:
    """What is in the file; empty where there is none."""
    try:
        text = path.read_text(encoding="utf-8").strip()
        others = path.stat().st_mode & 0o077
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise StartError(f"plugins.http: the operator secret {path} cannot be read: {reason}") from error
    if len(text) < _SHORTEST or not text.isascii() or not text.isprintable() or " " in text:
        raise StartError(
            f"plugins.http: the operator secret {path} must be one word of {_SHORTEST} or more ASCII characters; remove the "
            "file, and the broker makes one"
        )
    if others:
        log.warning("http: %s can be read by others than its owner: chmod 600 %s", path, path)
    return text


def _make(path: Path) -> str:
    """A new one, which is in the file as a whole or not at all. Another worker may have been faster: then it is that one."""
    secret = PREFIX + secrets.token_urlsafe(32)
    name = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        make_folder(path.parent)
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)
        except FileExistsError:
            secret = _read(path)
        finally:
            os.unlink(name)
    except OSError as error:
        log.warning("http: %s cannot be written: %s; there is no operator secret", path, error.strerror)
        return ""
    return secret
