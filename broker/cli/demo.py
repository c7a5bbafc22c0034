"""``tideline demo``: a phone, a laptop and a broker that is killed, told step by step, and checked."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from broker.cli.settings import Failure, PathType

if TYPE_CHECKING:
    from broker.cli.demo_parts import Story

_COUNT = 300  # messages that are being sent while the broker is killed


@click.command(short_help="See a device get exactly what it missed.")
@click.option("--keep", type=PathType(file_okay=False, path_type=Path), help="Keep the data in this new directory.")
@click.option("--pace", type=float, help="Seconds between the steps; 1.5 on a terminal, else 0.")
def demo(keep: Path | None, pace: float | None) -> None:
    """Watch a laptop get exactly what it missed, although the broker was killed meanwhile.

    Exits with 1 where it does not.
    """
    try:
        from broker.cli.demo_parts import Story
    except ImportError as error:
        raise Failure([f"the demo needs paho-mqtt: pip install 'tideline[demo]' ({error})"], 2) from None
    if pace is not None and not 0 <= pace <= 60:
        raise Failure([f"--pace {pace:g}: must be 0 to 60 seconds"], 2)
    if keep is not None:
        try:
            keep.mkdir(mode=0o700, parents=True, exist_ok=True)
            full = any(keep.iterdir())
        except OSError as error:
            raise Failure([f"--keep {keep}: {error.strerror}"], 2) from None
        if full:
            raise Failure([f"--keep {keep}: must be new or empty"], 2)
    with tempfile.TemporaryDirectory(prefix="tideline-demo-") as temporary:
        folder = keep or Path(temporary)
        for name in ("SIGHUP", "SIGTERM"):  # the broker outlives both, and is to end with the demo
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), _leave)
        story = Story(folder, _say, (1.5 if sys.stdout.isatty() else 0.0) if pace is None else pace)
        try:
            good = _tell(story)
        except (TimeoutError, OSError) as error:
            raise Failure([f"the demo did not work: {error}", f"the broker's log: {story.log_tail()}"], 1) from None
        finally:
            story.end()
    if keep is not None:
        _say(f"The data is in {keep}. Look at it: tideline inspect messages chat/family --data {keep}/data")
    if not good:
        raise click.exceptions.Exit(1)


def _tell(story: Story) -> bool:
    started = time.monotonic()
    story.start_broker("Starting a broker on an empty directory. Every message is on disk before it is acknowledged.")
    story.connect_all()
    story.send(3, "Bob writes three messages. Phone and laptop of Ada both get them.")
    story.both_have_all()
    story.laptop_leaves()
    story.send(5, "Bob writes five more. The phone gets them; for the laptop they wait in Ada's inbox.")
    story.phone_has_all()
    story.send_and_kill(_COUNT)
    story.start_broker("Starting the broker again on the same directory. Nothing was cleaned up, nothing is repaired by hand.")
    story.all_sent()
    story.phone_has_all()
    story.show_devices()
    story.laptop_returns()
    good = story.verdict()
    _say(f"({time.monotonic() - started:.1f} s)")
    return good


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _say(text: str) -> None:
    click.echo(text)
