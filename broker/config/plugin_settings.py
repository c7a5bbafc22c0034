"""A plugin's settings checked against its ``Config`` dataclass before amqtt does, so that what is wrong can be said well."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from amqtt.plugins.authentication import FileAuthPlugin
from amqtt.plugins.base import BasePlugin
from amqtt.utils import import_string
from dacite import Config as DaciteConfig
from dacite import from_dict
from dacite.exceptions import DaciteError, DaciteFieldError, MissingValueError, WrongTypeError

from broker.access.password_file import read
from broker.errors import StartError

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a mapping",
    list: "a list",
    type(None): "empty",
}


def checked(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` as the plugin's class will take them; values are never shown, as they may be secrets.

    Text where the class wants a number, a truth value or a member of an enumeration is converted: environment variables
    are text. Raises `StartError`.
    """
    plugin = plugin_class(path)
    config = plugin.Config
    if not (isinstance(config, type) and is_dataclass(config)):
        raise StartError(f"plugins: {path}: its Config is no dataclass")
    named = {str(name).replace("-", "_"): value for name, value in options.items()}
    converted = _converted(path, config, named)
    if problem := next(_unknown(config, converted, ""), ""):
        raise StartError(f"plugins: {path}: {problem}")
    try:
        from_dict(data_class=config, data=converted, config=DaciteConfig(strict=True))
    except DaciteError as error:
        raise StartError(f"plugins: {path}: {_told(error, config)}") from error
    except (ValueError, TypeError) as error:  # a Config that checks its own values
        raise StartError(f"plugins: {path}: {error}") from error
    _check_password_file(path, plugin, converted)
    return converted


def _check_password_file(path: str, plugin: Any, options: Mapping[str, Any]) -> None:
    """amqtt's file plugin would find out at each login, and log the line of a file that is none."""
    file = options.get("password_file")
    if issubclass(plugin, FileAuthPlugin) and file:
        try:
            read(Path(file), amqtt=True)
        except ValueError as error:
            raise StartError(f"plugins: {path}: password_file: {error}") from error


def plugin_class(path: str) -> Any:
    """The class of a path. Raises `StartError` where it is no amqtt plugin."""
    try:
        found = import_string(path)
    except Exception as error:  # the plugin's module may do anything
        raise StartError(f"plugins: {path}: cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, BasePlugin)):
        raise StartError(f"plugins: {path}: is not an amqtt plugin (a class that extends amqtt.plugins.base.BasePlugin)")
    return found


def _converted(path: str, config: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        hints = get_type_hints(config)
    except NameError:  # annotations that only a type checker can resolve: leave the values as they are
        hints = {}
    converted = dict(options)
    for name, value in options.items():
        kind = hints.get(name)
        if isinstance(value, str) and kind in (bool, int, float):
            converted[name] = _value(path, name, value, kind)
        elif isinstance(value, str) and isinstance(kind, type) and issubclass(kind, Enum) and not isinstance(value, kind):
            converted[name] = _member(path, name, value, kind)
        elif kind is float and type(value) is int:
            converted[name] = float(value)
    return converted


def _unknown(config: Any, options: Mapping[str, Any], where: str) -> Iterator[str]:
    """What is set and not known, also in the dataclasses within: dacite would not say where."""
    names = {field.name for field in fields(config)}
    for name in sorted(map(str, options.keys() - names)):
        near = difflib.get_close_matches(name, sorted(names), 1)
        meant = f"did you mean {where}{near[0]}?" if near else f"it knows {', '.join(sorted(names)) or 'none'}"
        yield f"unknown setting {where}{name}; {meant}"
    try:
        hints = get_type_hints(config)
    except NameError:
        return
    for name, value in options.items():
        kind = hints.get(name)
        if is_dataclass(kind) and isinstance(value, Mapping):
            yield from _unknown(kind, value, f"{where}{name}.")
        inner = (*get_args(kind), None)[0]
        if get_origin(kind) is list and is_dataclass(inner) and isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, Mapping):
                    yield from _unknown(inner, item, f"{where}{name}[{index}].")


def _value(path: str, name: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}[text.strip().lower()]
        return kind(text)
    except (KeyError, ValueError):
        raise StartError(f"plugins: {path}: {name} must be {_called(kind)}") from None


def _member(path: str, name: str, text: str, kind: type[Enum]) -> Enum:
    """A member of an enumeration by its value, which amqtt's strictness would not take."""
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(str(member.value) for member in kind)
        raise StartError(f"plugins: {path}: {name} must be one of {known}") from None


def _called(kind: Any) -> str:
    if is_dataclass(kind):
        return "a mapping of settings"
    return _NAMES.get(get_origin(kind) or kind, getattr(kind, "__name__", str(kind)))


def _told(error: DaciteError, config: Any) -> str:
    """A dacite error in our words."""
    if isinstance(error, MissingValueError):
        return f"needs the setting {error.field_path}"
    if isinstance(error, WrongTypeError):
        return f"{error.field_path} must be {_called(error.field_type)}, not {_called(type(error.value))}"
    where = f"{error.field_path}: " if isinstance(error, DaciteFieldError) and error.field_path else ""
    return f"{where}does not fit {_called(config)}"
