"""The generator's own ceiling: a broker that keeps nothing and checks nothing, only turns bytes around."""

from __future__ import annotations

import sys

from bench.peers.base import Peer


class Ceiling(Peer):
    """What the generator measures when the broker costs almost nothing: no figure can be higher than this."""

    name = "generator"
    title = "(ceiling)"
    ack_means = "nothing: frames are echoed by a process that keeps nothing"

    def command(self) -> list[str]:
        """Our own echo."""
        return [sys.executable, "-m", "bench.peers.ceiling_server", str(self.port)]
