"""What is kept of a password for SCRAM-SHA-256 (RFC 5802, RFC 7677): two keys derived from it, which let nobody log in.

The exchange itself is scramp's (`plugins.scram`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import stringprep
import unicodedata
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
        if method != METHOD or not count.isascii() or not count.isdigit():
            raise ValueError(f"must be {METHOD}$<iterations>:<salt>$<stored key>:<server key>")
        found = cls(int(count), _decoded(salt), _decoded(stored), _decoded(server))
        if len(found.salt) < 12 or len(found.stored_key) != 32 or len(found.server_key) != 32:
            raise ValueError("a key of 32 bytes, or the salt of at least 12, is missing")
        if not 4096 <= found.iterations <= 10_000_000:
            raise ValueError(f"{found.iterations} iterations: must be 4096 to 10000000")
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


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be Base64") from None
