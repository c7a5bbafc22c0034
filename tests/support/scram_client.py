"""The client's side of SCRAM-SHA-256 (RFC 5802), written from the RFC and not from the server's code."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets


class ScramClient:
    """`first`, then `final` with the server's challenge, then `check` with its last word."""

    def __init__(self, name: str, password: str) -> None:
        self._password = password
        nonce = secrets.token_hex(12)
        quoted = name.replace("=", "=3D").replace(",", "=2C")
        self.bare = f"n={quoted},r={nonce}".encode()
        self._signature = b""

    def first(self) -> bytes:
        """client-first-message."""
        return b"n,," + self.bare

    def final(self, challenge: bytes) -> bytes:
        """client-final-message."""
        nonce, salt, rounds = (part[2:] for part in challenge.split(b",", 2))
        salted = hashlib.pbkdf2_hmac("sha256", self._password.encode(), base64.b64decode(salt), int(rounds))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        unproved = b"c=biws,r=" + nonce
        said = b",".join((self.bare, challenge, unproved))
        mask = hmac.digest(hashlib.sha256(client_key).digest(), said, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, mask, strict=True))
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), said, "sha256")
        return unproved + b",p=" + base64.b64encode(proof)

    def check(self, last: bytes) -> None:
        """server-final-message: the server knows the password too."""
        assert last == b"v=" + base64.b64encode(self._signature), last
