"""Password files: what `tideline passwd` writes, and the `passwords` plugin and amqtt's FileAuthPlugin read.

A line is ``<user>:<hash>``; empty lines and those that begin with ``#`` mean nothing. A hash is

- Argon2 (``$argon2id$…``), for a password that a person chose; or
- ``$sha256$<base64>``, for a password of 256 random bits that `tideline passwd --generate` made: nobody can guess one, so that
  a slow hash would protect nothing, and checking it costs nothing. FileAuthPlugin does not know these.

Errors name file and line, never what stands in it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import argon2

_RANDOM = "$sha256$"
_ARGON2 = "$argon2"
_CRYPT = "$6$"

_OTHERS = {
    "SCRAM-SHA-256$": "is a SCRAM credential: name the file under plugins.scram",
    "$7$": "is one of mosquitto_passwd (PBKDF2)",
    "$2": "is bcrypt",
    "$5$": "is SHA-256 crypt",
    _CRYPT: "is SHA-512 crypt",
    "$y$": "is yescrypt",
    "$pbkdf2": "is PBKDF2",
    "$scrypt": "is scrypt",
    "{": "is one of LDAP",
}


def hashed(password: str) -> str:
    """An Argon2id hash at the cost that argon2-cffi recommends; takes some 0.1 s and 64 MiB."""
    return argon2.PasswordHasher().hash(password)


def generated() -> tuple[str, str]:
    """A new random password, and what is kept of it."""
    password = secrets.token_urlsafe(32)
    return password, _RANDOM + base64.b64encode(hashlib.sha256(password.encode()).digest()).decode()


def read(path: Path, *, amqtt: bool = False) -> dict[str, str]:
    """User → hash. Raises ValueError for the first line that is wrong; with ``amqtt``, that FileAuthPlugin could not use."""
    users: dict[str, str] = {}
    for number, line in enumerate(_lines(path), 1):
        name, colon, text = line.strip().partition(":")
        if (not name and not colon) or name.startswith("#"):
            continue
        problem = (
            "must be <user>:<hash>"
            if not name or not colon
            else f"user {name!r} is there twice"
            if name in users and not amqtt
            else _problem(name, text, amqtt)
        )
        if problem:
            raise ValueError(f"{path}, line {number}: {problem} (made by tideline passwd)")
        users[name] = text
    return users


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"cannot read {path}: {reason}") from error


def _problem(name: str, text: str, amqtt: bool) -> str:
    """What keeps a hash from being checked; empty for nothing."""
    if text.startswith(_ARGON2):
        return "" if _sound(text) else f"the Argon2 hash of user {name!r} is cut off or damaged"
    if text.startswith(_RANDOM) and not amqtt:
        return "" if len(_digest(text)) == 32 else f"the hash of user {name!r} is cut off or damaged"
    if text.startswith(_CRYPT) and amqtt and sys.version_info < (3, 13):
        return ""
    what = next((said for start, said in _OTHERS.items() if text.startswith(start)), "has no form that is known")
    if text.startswith(_RANDOM):
        what = "is one of tideline passwd --generate, which the passwords plugin reads"
    return f"the hash of user {name!r} {what}; it must be Argon2"


def _sound(text: str) -> bool:
    try:
        argon2.extract_parameters(text)
        parts = [base64.b64decode(part + "=" * (-len(part) % 4), validate=True) for part in text.split("$")[-2:]]
    except (argon2.exceptions.InvalidHashError, binascii.Error, ValueError):
        return False
    return all(len(part) >= 8 for part in parts)


def _digest(text: str) -> bytes:
    try:
        return base64.b64decode(text.removeprefix(_RANDOM), validate=True)
    except ValueError:
        return b""


class Passwords:
    """Users and their hashes. An unknown user takes as long as a known one, so that nobody learns who there is."""

    def __init__(self, users: dict[str, str]) -> None:
        self.users = users
        self._hasher = argon2.PasswordHasher()
        self._somebody = next((text for text in users.values() if text.startswith(_ARGON2)), "")

    def verify(self, name: str, password: str) -> bool:
        """Whether it is the user's password. Blocks, for Argon2 some 0.1 s."""
        text = self.users.get(name)
        secret = password.encode(errors="surrogateescape")
        if text is None:
            self._matches(self._somebody, secret)
            return False
        return self._matches(text, secret)

    def _matches(self, text: str, secret: bytes) -> bool:
        if not text.startswith(_ARGON2):
            return hmac.compare_digest(_digest(text), hashlib.sha256(secret).digest())
        try:
            return self._hasher.verify(text, secret)
        except argon2.exceptions.VerificationError:
            return False
