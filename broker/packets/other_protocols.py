"""What a client speaks that does not speak what its port expects, by its first bytes."""

from __future__ import annotations

TLS = b"\x16\x03"
"""How each TLS stream begins: a handshake record, of version 3."""

_HTTP = (b"GET ", b"POST ", b"HEAD ", b"PUT ", b"OPTIONS ", b"CONNECT ", b"PRI ")


def protocol_of(data: bytes) -> str:
    """``data`` has at least one byte. MQTT is recognised by a CONNECT."""
    if data.startswith(TLS):
        return "TLS"
    if data.startswith(_HTTP):
        return "plain HTTP"
    if data[0] == 0x10:
        return "plain MQTT"
    return f"bytes {data[:4].hex(' ')}"
