"""SCRAM-SHA-256 (RFC 5802, RFC 7677): what a server keeps of a password, and its side of the exchange. No I/O.

- The password never travels, and what is kept does not let anybody log in: it holds two keys that are derived from it.
- The client proves that it knows the password, and is then given proof that the server does.
- An unknown user is answered like a known one, and refused at the same step.
- Channel binding is not offered: TLS is between client and listener, which may be a proxy.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import stringprep
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

METHOD: Final = "SCRAM-SHA-256"

ITERATIONS: Final = 15_000
"""Rounds of PBKDF2, which the client computes; RFC 7677 wants at least 4096."""

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class ScramError(Exception):
    """The client's message is not what SCRAM wants here. Its text names what was wrong, never a secret."""


class ProofError(ScramError):
    """The client does not know the password, or there is no such user."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What is kept of a password."""

    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes

    @classmethod
    def make(cls, password: str, *, salt: bytes | None = None, iterations: int = ITERATIONS) -> Credential:
        """Derive it; takes some 10 ms. Raises ValueError for a password that SASLprep (RFC 4013) refuses."""
        salt = secrets.token_bytes(16) if salt is None else salt
        salted = hashlib.pbkdf2_hmac("sha256", prepared(password).encode(), salt, iterations)
        return cls(iterations, salt, hashlib.sha256(_hmac(salted, b"Client Key")).digest(), _hmac(salted, b"Server Key"))

    @classmethod
    def parse(cls, text: str) -> Credential:
        """Read what ``str`` wrote. Raises ValueError."""
        method, _, rest = text.partition("$")
        rounds, _, keys = rest.partition("$")
        count, _, salt = rounds.partition(":")
        stored, _, server = keys.partition(":")
        if method != METHOD or not count.isascii() or not count.isdigit() or int(count) < 1:
            raise ValueError(f"must be {METHOD}$<iterations>:<salt>$<stored key>:<server key>")
        found = cls(int(count), _decoded(salt), _decoded(stored), _decoded(server))
        if not found.salt or len(found.stored_key) != 32 or len(found.server_key) != 32:
            raise ValueError("a key of 32 bytes, or the salt, is missing")
        return found

    def __str__(self) -> str:
        return f"{METHOD}${self.iterations}:{_b64(self.salt)}${_b64(self.stored_key)}:{_b64(self.server_key)}"

    def matches(self, password: str) -> bool:
        """Whether it was made from this password; takes some 10 ms."""
        try:
            made = Credential.make(password, salt=self.salt, iterations=self.iterations)
        except ValueError:
            return False
        return hmac.compare_digest(made.stored_key, self.stored_key)


class Exchange:
    """One exchange: `first` for the client's first message, then `final` for its last; both give the server's answer.

    ``find`` gives a user's credential, or for an unknown one a made-up credential and False.
    """

    __slots__ = ("_auth_message", "_credential", "_find", "_header", "_known", "_nonce", "username")

    def __init__(self, find: Callable[[str], tuple[Credential, bool]], nonce: str | None = None) -> None:
        self.username = ""
        self._find = find
        self._nonce = secrets.token_urlsafe(18) if nonce is None else nonce
        self._header = ""
        self._auth_message = ""
        self._credential: Credential
        self._known = False

    def first(self, message: bytes) -> bytes:
        """client-first-message to server-first-message. Raises `ScramError`."""
        flag, authorize, bare = _three(_text(message))
        if flag.startswith("p="):
            raise ScramError("channel binding is not offered")
        if flag not in ("n", "y"):
            raise ScramError("the message does not begin with a channel binding flag")
        fields = bare.split(",")
        if len(fields) < 2 or not fields[0].startswith("n=") or not fields[1].startswith("r="):
            raise ScramError("user name and nonce must come first")
        self.username = _saslname(fields[0][2:])
        if authorize and (not authorize.startswith("a=") or _saslname(authorize[2:]) != self.username):
            raise ScramError("nobody may act as somebody else")
        if len(fields[1]) < 10:
            raise ScramError("the nonce is too short")
        self._header = f"{flag},{authorize},"
        self._nonce = fields[1][2:] + self._nonce
        self._credential, self._known = self._find(self.username)
        answer = f"r={self._nonce},s={_b64(self._credential.salt)},i={self._credential.iterations}"
        self._auth_message = f"{bare},{answer}"
        return answer.encode()

    def final(self, message: bytes) -> bytes:
        """client-final-message to server-final-message: the client is ``username``. Raises `ScramError`."""
        without_proof, comma, proof = _text(message).rpartition(",p=")
        fields = without_proof.split(",")
        if not comma or len(fields) < 2 or not fields[0].startswith("c=") or not fields[1].startswith("r="):
            raise ScramError("channel binding, nonce and proof are needed")
        try:
            header, given = _decoded(fields[0][2:]), _decoded(proof)
        except ValueError:
            raise ScramError("channel binding and proof must be Base64") from None
        if header != self._header.encode():
            raise ScramError("the channel binding is not that of the first message")
        if fields[1][2:] != self._nonce:
            raise ScramError("the nonce is not that of this exchange")
        said = f"{self._auth_message},{without_proof}".encode()
        signature = _hmac(self._credential.stored_key, said)
        key = bytes(a ^ b for a, b in zip(given, signature, strict=False))
        proved = hmac.compare_digest(hashlib.sha256(key).digest(), self._credential.stored_key)
        if not (proved and self._known and len(given) == len(signature)):
            raise ProofError("unknown user or wrong password")
        return b"v=" + _b64(_hmac(self._credential.server_key, said)).encode()


def prepared(password: str) -> str:
    """A password as SASLprep (RFC 4013) has it compared. Raises ValueError for characters that it prohibits."""
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c))
    text = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if not text:
        raise ValueError("the password is empty")
    if any(prohibited(c) for c in text for prohibited in _PROHIBITED):
        raise ValueError("the password holds a control or another character that no keyboard has")
    right_to_left = [stringprep.in_table_d1(c) for c in text]
    if any(right_to_left) and (any(map(stringprep.in_table_d2, text)) or not (right_to_left[0] and right_to_left[-1])):
        raise ValueError("the password mixes writing directions")
    return text


def _text(message: bytes) -> str:
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise ScramError("the message is not UTF-8") from None


def _three(text: str) -> tuple[str, str, str]:
    parts = text.split(",", 2)
    if len(parts) < 3:
        raise ScramError("the message is no client-first-message")
    return parts[0], parts[1], parts[2]


def _saslname(text: str) -> str:
    name = text.replace("=2C", ",").replace("=3D", "=")
    if not name or name.replace("=", "=3D").replace(",", "=2C") != text:
        raise ScramError("the user name is empty or not encoded as it must be")
    return name


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be Base64") from None
