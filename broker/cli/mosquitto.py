"""``tideline import mosquitto``: a configuration of ours from a mosquitto.conf, and what of it has no place here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
import yaml

from broker.cli.mosquitto_conf import Conversion, Line, Note, lines_of
from broker.cli.mosquitto_options import take
from broker.cli.passwd import write
from broker.cli.settings import Failure, PathType


@click.command(short_help="Make a configuration of a mosquitto.conf.")
@click.argument("conf", type=PathType(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out", type=PathType(dir_okay=False, path_type=Path), help="Write it there, to a new file, and not to the screen."
)
def mosquitto(conf: Path, out: Path | None) -> None:
    """Write the configuration that Tideline needs in place of CONF, a mosquitto.conf of version 2.0.

    What could not be carried over is listed, line by line, on standard error. The password file and the acl_file load as they
    are (docs/access.md). Messages that Mosquitto holds do not come along.
    """
    if out is not None and os.path.exists(out):
        raise Failure([f"{out} is there already: name a new file"], 2)
    conversion = Conversion()
    for line in _lines(conf, conversion):
        take(conversion, line)
    text = f"# Made from {conf} by tideline import mosquitto. docs/configuration.md explains each setting.\n"
    text += yaml.safe_dump(conversion.settings(), sort_keys=False, allow_unicode=True, width=1000)
    if out is None:
        click.echo(text, nl=False)
    else:
        write(out, text.splitlines())
        click.echo(f"{out}: written. Look at it with: tideline check -c {out}")
    for note in conversion.notes:
        click.echo(f"not carried over: {note}" if note.line else f"look at: {note}", err=True)


def _lines(conf: Path, conversion: Conversion) -> Iterator[Line]:
    """Those of the file, and of the files that it includes."""
    for line in lines_of(_text(conf), str(conf)):
        yield line
        if line.option != "include_dir":
            continue
        try:
            found = [path for path in Path(line.value).iterdir() if path.suffix == ".conf" and path.is_file()]
        except (FileNotFoundError, NotADirectoryError):
            conversion.notes.append(Note(line.place, line.text, "there is no such folder"))
            continue
        except OSError as error:
            raise Failure([f"{line.place}: cannot read {line.value}: {error.strerror}"], 2) from None
        for path in sorted(found, key=lambda path: (path.name.lower(), path.name)):
            yield from (inner for inner in lines_of(_text(path), str(path)) if inner.option != "include_dir")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Failure([f"cannot read {path}: {reason}"], 2) from None
