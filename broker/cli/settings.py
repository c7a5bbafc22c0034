"""What the commands share about configuration: the options, and how it is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from broker.config import ConfigError, Settings, load, without_password
from storage.errors import NoDatabase, StorageError
from storage.factory import open_url

WRONG_CONFIGURATION = 2
CANNOT_START = 3
ENDED = 4

_DATA_FILES = {
    "persistence": ("url", "sqlite:///{}/tideline.db"),
    "search": ("path", "{}/search.db"),
    "http": ("operator_file", "{}/operator.json"),
}
"""The plugin settings that name a place in the data directory."""

F = TypeVar("F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """Ends a command with lines for people on standard error, and no traceback."""

    def __init__(self, lines: list[str], exit_code: int) -> None:
        super().__init__("\n".join(lines))
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: Any = None) -> None:
        for line in self.message.split("\n"):
            click.echo(f"tideline: {line}", err=True, file=file)


class PathType(click.Path):
    """A path that says something: an empty one, of a variable that was not set, would mean the current folder."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty", parameter, context)
        return super().convert(value, parameter, context)


def config_option(command: F) -> F:
    """``--config``: a file that must exist; without it ./config.yaml where there is one, else the defaults."""
    return click.option(
        "-c",
        "--config",
        "config",
        type=PathType(exists=True, dir_okay=False, path_type=Path),
        envvar="TIDELINE_CONFIG",
        help="Configuration file; ./config.yaml where it exists, else the defaults. Also TIDELINE_CONFIG.",
    )(command)


def data_option(command: F) -> F:
    """``--data``: a directory instead of the one in the configuration."""
    return click.option(
        "-d",
        "--data",
        type=PathType(file_okay=False, path_type=Path),
        help="Directory of the embedded data, instead of the one in the configuration.",
    )(command)


async def require_database(url: str) -> None:
    """End the command where nothing is stored at ``url``: it works on what there is, and a wrong --data must not make more.

    What else is wrong is left for who opens it.
    """
    storage = open_url(url, read_only=True)
    try:
        await storage.open()
    except NoDatabase as error:
        raise Failure([f"{error}; is --data, or persistence in the configuration, the right one?"], CANNOT_START) from None
    except StorageError:
        pass
    finally:
        await storage.close()


def config_path(config: Path | None) -> Path | None:
    """The file that is read for ``--config``: None stands for the defaults."""
    if config is not None:
        return config
    standing = Path("config.yaml")
    return standing if standing.is_file() else None


def read_settings(config: Path | None, data: Path | None = None) -> Settings:
    """The settings of a command, with ``--data`` laid over them; ends the command where they are wrong."""
    try:
        return settings_of(config, data)
    except ConfigError as error:
        raise Failure(error.problems, WRONG_CONFIGURATION) from None


def settings_of(config: Path | None, data: Path | None = None) -> Settings:
    """The same; raises `ConfigError`."""
    path = config_path(config)
    environ = dict(os.environ)
    try:
        settings = load(path, environ)
        if data is None:
            return settings
        if not settings.storage_url.startswith("sqlite://"):
            place = without_password(settings.storage_url) or "where a plugin says"
            raise ConfigError([f"--data: the configuration stores elsewhere ({place}); leave --data out"])
        for alias, (option, pattern) in _DATA_FILES.items():
            if alias in settings.plugins:
                environ[f"TIDELINE__PLUGINS__{alias.upper()}__{option.upper()}"] = repr(pattern.format(data))
        return load(path, environ)
    except ConfigError as error:
        name = f"{path}: " if path else ""
        raise ConfigError([name + problem for problem in error.problems]) from None
