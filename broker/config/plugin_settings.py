"""A plugin's settings checked against its ``Config`` dataclass before amqtt does, so that what is wrong can be said well."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from amqtt.plugins.authentication import FileAuthPlugin
from amqtt.plugins.base import BasePlugin
from amqtt.utils import import_string
from dacite import Config as DaciteConfig
from dacite import from_dict
from dacite.exceptions import DaciteError, DaciteFieldError, MissingValueError
from dacite.types import is_instance

from broker.access import read
from broker.config.sources import LARGEST, dotted, shown
from broker.config.sources import Path as Place
from broker.config.wording import listed, suggest
from broker.errors import Faults, StartError
from broker.hooks import never_awaited

_TRUTH = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}
_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping",
    list: "a list",
    Path: "a file path",
    type(None): "empty",
}
_STRICT = DaciteConfig(strict=True)


class Wrong(NamedTuple):
    """One thing that is wrong: where in the plugin's settings, and the value with what would be right."""

    path: Place
    text: str


@dataclass
class WrongSettings(StartError):
    """A plugin that cannot be loaded with these settings, or at all."""

    plugin: str
    wrong: list[Wrong]

    def __str__(self) -> str:
        lines = [f"{dotted(path)}: {text}" if path else text for path, text in self.wrong]
        return f"plugins: {self.plugin}: {'; '.join(lines)}"


def checked(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` as the plugin's class will take them.

    Text where the class wants a number, a truth value or a member of an enumeration is converted: environment variables
    are text. Raises `WrongSettings` with everything that is wrong; a secret's value is not in it.
    """
    plugin = plugin_class(path)
    config = plugin.Config
    if not (isinstance(config, type) and is_dataclass(config)):
        raise WrongSettings(path, [Wrong((), "its Config is no dataclass")])
    named = {str(name).replace("-", "_"): value for name, value in options.items()}
    converted = _converted(config, named)
    wrong = [*_wrong_in(config, converted, ())]
    wrong += _all_refused(config, converted, {str(found.path[0]) for found in wrong if found.path}, ())
    wrong += _wrong_password_file(plugin, converted)
    if wrong:
        raise WrongSettings(path, wrong)
    return converted


def _wrong_password_file(plugin: Any, options: Mapping[str, Any]) -> Iterator[Wrong]:
    """amqtt's file plugin would find out at each login, and log the line of a file that is none."""
    file = options.get("password_file")
    if issubclass(plugin, FileAuthPlugin) and file and isinstance(file, str | Path):
        try:
            read(Path(file), amqtt=True)
        except ValueError as error:
            yield Wrong(("password_file",), str(error))


def plugin_class(path: str) -> Any:
    """The class of a path. Raises `WrongSettings` where it is no amqtt plugin, or one with a method that nobody would await."""
    try:
        found = import_string(path)
    except Exception as error:  # the plugin's module may do anything
        raise WrongSettings(path, [Wrong((), f"cannot be imported: {error}")]) from error
    if not (isinstance(found, type) and issubclass(found, BasePlugin)):
        text = "is not an amqtt plugin (a class that extends amqtt.plugins.base.BasePlugin)"
        raise WrongSettings(path, [Wrong((), text)])
    text = "must be a plain function (def, not async def): it is called on the spot, and nobody awaits it"
    if wrong := [Wrong((), f"{name} {text}") for name in never_awaited(found)]:
        raise WrongSettings(path, wrong)
    return found


@cache
def _hints(config: Any) -> dict[str, Any]:
    """The kinds of a class's settings: working them out takes longer than all else of a check."""
    try:
        return get_type_hints(config)
    except NameError:  # annotations that only a type checker can resolve: the values stay as they are
        return {}


def _converted(config: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Text made what the class wants, where it can be."""
    hints, converted = _hints(config), dict(options)
    for name, value in options.items():
        kind = hints.get(name)
        if kind is float and type(value) is int:
            converted[name] = float(value)
        elif isinstance(value, str) and kind is bool:
            converted[name] = _TRUTH.get(value.strip().lower(), value)
        elif isinstance(value, str) and (kind in (int, float) or (isinstance(kind, type) and issubclass(kind, Enum))):
            try:
                converted[name] = kind(value)
            except ValueError:
                continue  # and is told below
    return converted


# --- what is wrong ---------------------------------------------------------------------------------------------------


def _wrong_in(kind: Any, value: Any, path: Place) -> Iterator[Wrong]:
    """Every place within ``value`` that is not of its kind. A kind that is not known here is left to dacite."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(value, Mapping):
        yield from _wrong_fields(kind, value, path)
    elif origin is list and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _wrong_in(arguments[0], item, (*path, index))
    elif origin is dict and isinstance(value, dict):
        for name, item in value.items():
            yield from _wrong_in(arguments[1], item, (*path, str(name)))
    elif origin in (Union, types.UnionType):
        tried = [[*_wrong_in(arm, value, path)] for arm in arguments]
        if all(tried):  # what lies deeper was meant, if anything was
            deeper = [wrong for wrong in tried if wrong[0].path != path]
            yield from deeper[0] if deeper else [_mismatch(kind, value, path)]
    elif not (kind is None or _fits(kind, value)):
        yield _mismatch(kind, value, path)
    elif isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:  # which is no number, neither
        yield Wrong(path, f"{shown(path, value)} must be a finite number of at most {LARGEST}")


def _fits(kind: Any, value: Any) -> bool:
    if isinstance(value, bool) and kind in (int, float):  # which Python takes for 1 and 0: `max_messages: yes` kept one
        return False
    try:
        return is_instance(value, kind)
    except TypeError:  # an annotation that dacite cannot make anything of, either
        return True


def _mismatch(kind: Any, value: Any, path: Place) -> Wrong:
    said, right = shown(path, value), f"must be {_called(kind)}"
    if value is None or isinstance(value, dict | list):
        return Wrong(path, f"{right}, not {'empty' if value is None else _called(type(value))}")
    return Wrong(path, f"{said} {right}")


def _wrong_fields(config: Any, options: Mapping[str, Any], path: Place) -> Iterator[Wrong]:
    names = [field.name for field in fields(config)]
    for name in map(str, options.keys() - set(names)):
        yield Wrong((*path, name), f"unknown setting{suggest(name, sorted(names))}")
    hints, wrong = _hints(config), set(map(str, options.keys() - set(names)))
    for name, value in options.items():
        for found in _wrong_in(hints.get(name), value, (*path, name)):
            wrong.add(str(name))
            yield found
    if path:
        yield from _all_refused(config, options, wrong, path)


def _all_refused(config: Any, options: Mapping[str, Any], left_out: set[str], path: Place) -> Iterator[Wrong]:
    """What the class itself says against its values, until it says nothing: what is wrong is ``left_out`` of the next try.

    What it says then of a setting that was left out is no fault of the configuration.
    """
    known = {field.name for field in fields(config)}
    left_out = set(left_out)
    reported: list[Wrong] = []
    while True:
        rest = {name: value for name, value in options.items() if name not in left_out}
        missed = left_out & known
        found = [wrong for wrong in _refused(config, rest, path) if wrong not in reported and not missed & _words(wrong, path)]
        yield from found
        reported += found
        named = {str(wrong.path[len(path)]) for wrong in found if len(wrong.path) > len(path)} & rest.keys()
        if not named:
            return
        left_out |= named


def _words(wrong: Wrong, path: Place) -> set[str]:
    return set(re.findall(r"\w+", f"{dotted(wrong.path[len(path) :])} {wrong.text}"))


def _refused(config: Any, options: Mapping[str, Any], path: Place) -> Iterator[Wrong]:
    """What the class itself says against its values, once their types are right."""
    try:
        from_dict(data_class=config, data=options, config=_STRICT)
    except MissingValueError as error:
        yield Wrong((*path, str(error.field_path)), "is missing")
    except DaciteError as error:
        inner = (str(error.field_path),) if isinstance(error, DaciteFieldError) and error.field_path else ()
        yield Wrong((*path, *inner), f"does not fit {_called(config)}")
    except (ValueError, TypeError) as error:  # a Config that checks its own values, and names the one that is wrong first
        for text in error.faults if isinstance(error, Faults) else [str(error)]:
            yield _located(text, config, path)


def _located(text: str, config: Any, path: Place) -> Wrong:
    """``start 'x' must be …`` is about the setting ``start``."""
    inside = dotted(tuple(part for part in path if isinstance(part, str)))
    text = text.removeprefix(f"{inside}: ").removeprefix(f"{inside}.")
    match = re.match(r"(\w+)((?:\.\w+)*)(?:: | (?='))", text) or re.match(r"(\w+)((?:\.\w+)*) (?=[\d-]|must )", text)
    if match is None or match[1] not in {field.name for field in fields(config)}:
        return Wrong(path, text)
    wording = re.sub(r"^('[^']*'|\S+): must", r"\1 must", text[match.end() :])
    return Wrong((*path, match[1], *match[2].split(".")[1:]), wording)


def _called(kind: Any) -> str:
    """A type as people say it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return "a mapping of settings"
    if origin is Literal:
        return listed([str(value) for value in arguments])
    if origin in (Union, types.UnionType):
        return listed([_called(arm) for arm in arguments])
    if origin is list and arguments:
        return f"a list of {_called(arguments[0]).removeprefix('a ')}"
    if origin is dict and arguments:
        return f"a mapping of {_called(arguments[0])} to {_called(arguments[1])}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return listed([str(member.value) for member in kind])
    return _NAMES.get(origin or kind, getattr(kind, "__name__", str(kind)))
