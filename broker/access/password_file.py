"""Password files: what `tideline passwd` and `mosquitto_passwd` write. The `passwords` plugin reads them, FileAuthPlugin some.

A line is ``<user>:<hash>``; empty lines and those that begin with ``#`` mean nothing. A hash is

- Argon2 (``$argon2id$…``), for a password that a person chose;
- ``$sha256$<base64>``, for a password of 256 random bits that `tideline passwd --generate` made: nobody can guess one, so that
  a slow hash would protect nothing, and checking it costs nothing; or
- Mosquitto's ``$7$<rounds>$<salt>$<key>`` (PBKDF2 with SHA-512) and ``$6$<salt>$<hash>`` (SHA-512 of password and salt), both
  in Base64.

FileAuthPlugin knows Argon2 only.

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
from typing import NamedTuple

import argon2

from broker.access.apart import verify

_RANDOM = "$sha256$"
_ARGON2 = "$argon2"
_PBKDF2 = "$7$"
_SHA512 = "$6$"
"""Also the beginning of crypt's SHA-512, which FileAuthPlugin takes up to Python 3.12."""
_MOST_ROUNDS = 10_000_000

_OTHERS = {
    "SCRAM-SHA-256$": "is a SCRAM credential: name the file under plugins.scram",
    _PBKDF2: "is one of mosquitto_passwd, which the passwords plugin reads",
    "$2": "is bcrypt",
    "$5$": "is SHA-256 crypt",
    _SHA512: "is SHA-512 crypt, or a damaged one of mosquitto_passwd",
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
    if text.startswith(_SHA512) and amqtt and sys.version_info < (3, 13):
        return ""
    if text.startswith((_PBKDF2, _SHA512)) and not amqtt and _of_mosquitto(text) is not None:
        return ""
    if text.startswith(_PBKDF2) and not amqtt:
        return f"the hash of user {name!r} is cut off or damaged"
    what = next((said for start, said in _OTHERS.items() if text.startswith(start)), "has no form that is known")
    if text.startswith(_RANDOM):
        what = "is one of tideline passwd --generate, which the passwords plugin reads"
    return f"the hash of user {name!r} {what}; it must be Argon2"


def hash_problem(name: str, text: str) -> str:
    """What keeps a user's hash from being checked; empty for nothing."""
    return _problem(name, text, amqtt=False)


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


class _Mosquitto(NamedTuple):
    rounds: int
    """Of PBKDF2; 0 for the one hash of ``$6$``."""
    salt: bytes
    key: bytes

    def matches(self, secret: bytes) -> bool:
        if self.rounds:
            made = hashlib.pbkdf2_hmac("sha512", secret, self.salt, self.rounds)
        else:
            made = hashlib.sha512(secret + self.salt).digest()
        return hmac.compare_digest(made, self.key)


def _of_mosquitto(text: str) -> _Mosquitto | None:
    """A hash of mosquitto_passwd; None where it is none."""
    parts = text.split("$")[1:]
    rounds = parts.pop(1) if parts[0] == "7" and len(parts) == 4 else "0"
    if len(parts) != 3 or not (rounds.isascii() and rounds.isdigit()) or not (parts[0] == "7") <= int(rounds) <= _MOST_ROUNDS:
        return None
    try:
        salt, key = (base64.b64decode(part, validate=True) for part in parts[1:])
    except ValueError:
        return None
    return _Mosquitto(int(rounds), salt, key) if salt and len(key) == 64 else None


def _slowness(text: str) -> int:
    """Which of two hashes is of a slower kind."""
    return 2 if text.startswith(_ARGON2) else 1 if text.startswith(_PBKDF2) else 0


class Passwords:
    """Users and their hashes. An unknown user takes as long as a known one with a wrong password, so that nobody learns who
    there is: every wrong password costs the slowest kind of hash that anybody has."""

    def __init__(self, users: dict[str, str] | None = None) -> None:
        self.users: dict[str, str] = {}
        self._somebody = ""
        """Somebody's hash of the slowest kind that there is."""
        for name, text in (users or {}).items():
            self.put(name, text)

    def put(self, name: str, text: str) -> None:
        """Add a user, or change the hash."""
        self.users[name] = text
        if _slowness(text) > _slowness(self._somebody):
            self._somebody = text

    def drop(self, name: str) -> None:
        """Forget a user, if there is one."""
        self.users.pop(name, None)

    def verify(self, name: str, password: str) -> bool:
        """Whether it is the user's password. Blocks, for Argon2 some 0.1 s."""
        text = self.users.get(name, "")
        secret = password.encode(errors="surrogateescape")
        right = self._matches(text, secret) and bool(text)
        if not right and _slowness(text) < _slowness(self._somebody):
            self._matches(self._somebody, secret)
        return right

    def _matches(self, text: str, secret: bytes) -> bool:
        if text.startswith(_ARGON2):
            return verify(text, secret)
        if text.startswith((_PBKDF2, _SHA512)):
            kept = _of_mosquitto(text)
            return kept is not None and kept.matches(secret)
        return hmac.compare_digest(_digest(text), hashlib.sha256(secret).digest())
