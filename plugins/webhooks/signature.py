"""Signatures as the Standard Webhooks specification makes them (version v1, HMAC-SHA256). No I/O."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable

PREFIX = "whsec_"
_SHORTEST, _LONGEST = 24, 64


def key_of(secret: str) -> bytes:
    """The key of a secret, which is ``whsec_`` and base64 of 24 to 64 bytes. Raises ValueError, which does not show it."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True) if secret.startswith(PREFIX) else b""
    except binascii.Error:
        key = b""
    if not _SHORTEST <= len(key) <= _LONGEST:
        raise ValueError(f"must be {PREFIX} and base64 of {_SHORTEST} to {_LONGEST} bytes: openssl rand -base64 32")
    return key


def headers(keys: Iterable[bytes], id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of one attempt. With several keys, of which one is on its way out, there is a signature of each."""
    signed = f"{id}.{timestamp}.".encode() + body
    signatures = [f"v1,{base64.b64encode(hmac.digest(key, signed, 'sha256')).decode()}" for key in keys]
    return {"webhook-id": id, "webhook-timestamp": str(timestamp), "webhook-signature": " ".join(signatures)}
