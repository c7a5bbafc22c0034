"""What the commands share about configuration: the options, and how it is read."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import click

from broker.config import ConfigError, Settings, Sources, all_problems, load, remainder, without_password
from storage.errors import NoDatabase, StorageError
from storage.factory import open_url

WRONG_CONFIGURATION = 2
CANNOT_START = 3
ENDED = 4

VARIABLE = "TIDELINE_CONFIG"
"""The environment's name for the configuration file, where no option names one."""

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
    """A path that says something: an empty one, of a variable that was not set, would mean the current folder.

    A folder that is to be there, as a slash at its end says, is never made as a file of that name.
    """

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty", parameter, context)
        if self.file_okay and str(value).endswith("/") and not os.path.isdir(value):
            self.fail(f"there is no folder {str(value)!r}.", parameter, context)
        if self.exists and (problem := unread(Path(value))):
            self.fail(f"{self.name.capitalize()} {str(value)!r} {problem}.", parameter, context)
        return super().convert(value, parameter, context)


def unread(path: Path) -> str:
    """Why this user cannot read what is there; empty for nothing. A folder on the way may be shut, too."""
    try:
        path.stat()
    except PermissionError:
        return "may not be read by this user"
    except (OSError, ValueError):
        return "does not exist"
    return "" if os.access(path, os.R_OK) else "may not be read by this user"


def _for_those_below(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """What a group is given stands for what its subcommands are not given."""
    if value is not None and isinstance(context.command, click.Group):
        below = context.default_map = context.default_map or {}
        for name in context.command.list_commands(context):
            below.setdefault(name, {})[parameter.name] = value
    return value


def place_option(*names: str, **about: Any) -> Callable[[F], F]:
    """An option that says where something is: before a group's subcommand, or after it, which counts where both are given."""
    return click.option(*names, callback=_for_those_below, **about)


def config_option(command: F) -> F:
    """``--config``: a file that must exist; `config_path` has what is read without it.

    The variable is not the option's own: it would be taken for one that was given, and beat one that stands at another place.
    """
    return place_option(
        "-c",
        "--config",
        "config",
        type=PathType(exists=True, dir_okay=False, path_type=Path),
        help=f"Configuration file; else the one that {VARIABLE} names, else ./config.yaml where it exists, else the defaults.",
    )(command)


def data_option(command: F) -> F:
    """``--data``: a directory instead of the one in the configuration."""
    return place_option(
        "-d",
        "--data",
        type=PathType(file_okay=False, path_type=Path),
        help="Directory of the embedded data, instead of the one in the configuration.",
    )(command)


def settings_options(command: F) -> F:
    """``--config`` and ``--data``, of which `read_settings` makes the settings."""
    return config_option(data_option(command))


def with_settings(command: F) -> F:
    """``--config`` and ``--data``: the command is given the `Settings` that they mean as its first argument."""

    def called(*, config: Path | None, data: Path | None, **rest: Any) -> Any:
        return command(read_settings(config, data), **rest)

    return cast(F, settings_options(update_wrapper(called, command)))


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
    """The file that is read for ``--config``: None stands for the defaults. Raises `ConfigError` for a file of the environment
    that cannot be read, and where this user may not look for one."""
    if config is not None:
        return config
    if named := os.environ.get(VARIABLE):
        path = Path(named)
        if problem := unread(path) or ("is a folder" if path.is_dir() else ""):
            raise ConfigError([f"{VARIABLE} names {named!r}, which {problem}"])
        return path
    standing = Path("config.yaml")
    try:
        return standing if standing.is_file() else None
    except PermissionError:  # sudo -u, from a folder of one's own
        text = "this user may not look for config.yaml in the current folder: name it with --config, or go to another folder"
        raise ConfigError([text]) from None


def read_settings(config: Path | None, data: Path | None = None) -> Settings:
    """The settings of a command, with ``--data`` laid over them; ends the command where they are wrong."""
    try:
        return settings_of(config, data)
    except ConfigError as error:
        raise Failure(error.problems, WRONG_CONFIGURATION) from None


class Findings(NamedTuple):
    """What a configuration says. ``settings`` is None where something is wrong: ``problems`` has a line for each fault.

    ``warnings`` are of what works, and should be looked at.
    """

    settings: Settings | None
    problems: list[str]
    warnings: list[str]


def examine(
    config: Path | None,
    data: Path | None = None,
    *,
    opening: bool = False,
    also: Callable[[Settings], list[str]] | None = None,
) -> Findings:
    """All that is wrong with a configuration at once: one kind of fault hides no other.

    ``opening``: this process will open what it names, so that a certificate which cannot be read is a fault too. ``also``: what
    is wrong with the storage for this command, a line each.
    """
    whole = storage_is_right = True
    settings: Settings | None
    try:
        settings, problems = _loaded(config, data)
    except ConfigError as error:
        problems, whole = error.problems, False
        settings = remainder(error.sources) if error.sources is not None else None
        if error.sources is None or settings is None:
            return Findings(None, problems, [])
        storage_is_right = _as_written(settings, error.sources)
        if data is not None and storage_is_right:
            problems = problems + _data_problems(settings)
    found, warnings = all_problems(settings, whole=whole, opening=opening)
    name = config_path(config) or "the defaults"
    problems = problems + [f"{name}: {problem}" for problem in found]
    if also is not None and storage_is_right:
        problems += also(settings)
    return Findings(None if problems else settings, problems, warnings)


def settings_of(config: Path | None, data: Path | None = None) -> Settings:
    """The settings of a command, with ``--data`` laid over them; raises `ConfigError`."""
    settings, problems = _loaded(config, data)
    if problems:
        raise ConfigError(problems)
    return settings


def _loaded(config: Path | None, data: Path | None) -> tuple[Settings, list[str]]:
    """The settings, and what is wrong with ``--data`` beside them. Raises `ConfigError`."""
    path = config_path(config)
    environ = dict(os.environ)
    try:
        settings = load(path, environ)
        if data is None:
            return settings, []
        if problems := _data_problems(settings):
            return settings, problems
        for alias, (option, pattern) in _DATA_FILES.items():
            if alias in settings.plugins:
                environ[f"TIDELINE__PLUGINS__{alias.upper()}__{option.upper()}"] = repr(pattern.format(data))
        return load(path, environ), []
    except ConfigError as error:
        name = f"{path}: " if path else ""
        raise ConfigError([name + problem for problem in error.problems], error.sources) from None


def _data_problems(settings: Settings) -> list[str]:
    if settings.storage_url.startswith("sqlite://"):
        return []
    place = without_password(settings.storage_url) or "where a plugin says"
    return [f"--data: the configuration stores elsewhere ({place}); leave --data out"]


def _as_written(settings: Settings, sources: Sources) -> bool:
    """Whether the storage of what is right among wrong settings is the one that was written, and not the default."""
    plugins = sources.data.get("plugins")
    return isinstance(plugins, dict) and plugins.get("persistence") == settings.plugins.get("persistence")
