"""How the in-flight list of a device is packed into bytes, in every backend. No I/O."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from storage.records import Inflight, InflightState

_INFLIGHT = struct.Struct(">HQBH")


def pack_inflight(entries: Iterable[Inflight]) -> bytes:
    """Encode an in-flight list: per entry packet id, sequence, state, length of the timeline's name, and the name."""
    parts = []
    for entry in entries:
        name = entry.timeline.encode()
        parts.append(_INFLIGHT.pack(entry.packet_id, entry.seq, entry.state, len(name)))
        if name:
            parts.append(name)
    return b"".join(parts)


def unpack_inflight(data: bytes) -> list[Inflight]:
    """Decode what `pack_inflight` wrote."""
    entries, at = [], 0
    while at < len(data):
        packet_id, seq, state, length = _INFLIGHT.unpack_from(data, at)
        at += _INFLIGHT.size
        entries.append(Inflight(packet_id, seq, InflightState(state), data[at : at + length].decode()))
        at += length
    return entries
