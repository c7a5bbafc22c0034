"""Where ``tideline`` begins: a ^C while modules are still imported ends it as it ends any program, without a traceback."""

from __future__ import annotations

import signal


def main() -> None:
    """Import the commands and run the one that is asked for."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else the shell said to ignore it
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from broker.cli.main import main as command

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()
