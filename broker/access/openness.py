"""Whether anybody has to be asked. Asked for each message, so compiled (setup.py)."""

from __future__ import annotations


class Openness:
    """``open``: no topic plugin is loaded that has rules, so that everything may be done, and nobody has to be asked."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = False
