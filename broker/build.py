"""What is running: the version, and whether its core is compiled."""

from __future__ import annotations

from functools import cache
from importlib import metadata

from broker import counters


@cache
def version() -> str:
    """The version that is installed; empty where the sources run as they are."""
    try:
        return metadata.version("tideline")
    except metadata.PackageNotFoundError:
        return ""


def compiled() -> bool:
    """Whether the core is the one that `make compile` made."""
    return not (counters.__file__ or "").endswith(".py")
