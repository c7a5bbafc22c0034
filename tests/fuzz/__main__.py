"""``python -m tests.fuzz [NAME ...] [--seconds N]``: each target for so long; ends with 1 at the first input that breaks one.

Needs atheris (`make fuzz` installs it).
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import click


@click.command()
@click.argument("names", nargs=-1)
@click.option("--seconds", default=60, show_default=True, help="How long each target is fed.")
@click.option("--one", hidden=True, help="The target of this process.")
@click.option("--corpus", hidden=True)
def main(names: tuple[str, ...], seconds: int, one: str | None, corpus: str | None) -> None:
    """Feed the codec, the WebSocket handshake and frames, and PROXY headers with bytes."""
    if one is not None:
        _feed(one, seconds, str(corpus))
        return
    from tests.fuzz.targets import TARGETS

    for name in names or TARGETS:
        if name not in TARGETS:
            raise click.UsageError(f"no target {name!r}: there is {', '.join(TARGETS)}")
        with tempfile.TemporaryDirectory() as folder:
            for number, seed in enumerate(TARGETS[name][1]):
                (Path(folder) / str(number)).write_bytes(seed)
            click.echo(f"{name}: {seconds} s")
            command = [sys.executable, "-m", "tests.fuzz", "--one", name, "--seconds", str(seconds), "--corpus", folder]
            if subprocess.run(command, check=False).returncode:
                raise click.exceptions.Exit(1)


def _feed(name: str, seconds: int, corpus: str) -> None:
    import atheris

    with atheris.instrument_imports(include=["broker.packets", "broker.net", "websockets"]):
        from tests.fuzz.targets import TARGETS
    logging.disable()  # each stranger would have a line now and then
    options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, corpus], TARGETS[name][0])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
