"""How modules are imported: a ^C meanwhile ends the process as it ends any program, and nobody looks for garbage."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_NOT_IGNORED = (signal.default_int_handler, signal.SIG_DFL)


@contextmanager
def importing() -> Iterator[None]:
    """Let a ^C end the process at once meanwhile, unless the shell said to ignore it; afterwards one is raised."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) in _NOT_IGNORED
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with uncollected():
            yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def uncollected() -> Iterator[None]:
    """Python looks for no garbage meanwhile, and never among what was made: modules stay, and each new one's share in looking
    through all of them took a sixth of the time that a broker needs to start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
