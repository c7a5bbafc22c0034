"""Where settings come from: a YAML file whose lines are remembered, and environment variables laid over it.

Pure: text and mappings in, plain data out. What the values mean is `broker.config`'s business.

A `Path` here is a tuple of mapping keys and list indexes, such as ("listeners", 0, "bind").
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import yaml

Path = tuple[str | int, ...]

ENVIRONMENT_PREFIX = "TIDELINE__"
LARGEST = 1 << 50
"""What a number may be: a storage, a clock in milliseconds and a socket can still count with it."""
_SECRET = re.compile(
    r"password(?!_file)|passwd|passphrase|secret|token|credential|api_?key|master_?key|private|(?:^|_)key$", re.IGNORECASE
)


@dataclass
class Sources:
    """Merged raw data, where each value was said, and what could not be read at all."""

    data: dict[str, Any] = field(default_factory=dict, compare=False)
    origins: dict[Path, str] = field(default_factory=dict, compare=False)
    problems: list[str] = field(default_factory=list, compare=False)
    written: dict[Path, Path] = field(default_factory=dict, compare=False)
    """Paths in ``data`` that were written as another one."""

    def where(self, path: Path) -> str:
        """``mqtt.inflight_window (line 12)``, as it was written, with the nearest place that is known."""
        written = self.as_written(path)
        for length in range(len(path), 0, -1):
            for known in (path, written):
                if known[:length] in self.origins:
                    return f"{dotted(known)} ({self.origins[known[:length]]})"
        return dotted(written)

    def as_written(self, path: Path) -> Path:
        """The path in the file, or in the names of variables, of one in ``data``."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.written:
                return (*self.written[path[:length]], *path[length:])
        return path


def dotted(path: Path) -> str:
    """A path as people write it: ``listeners[0].bind``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the configuration"


def shown(path: Path, value: object) -> str:
    """A value for an error message: shortened, without a secret or a URL's password, or what a list or mapping holds."""
    if any(isinstance(part, str) and _SECRET.search(part) for part in path):
        return "'***'"
    if value and isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return json.dumps(value)  # as YAML and JSON spell it
    text = repr(without_password(value) if isinstance(value, str) else value)
    return text if len(text) <= 80 else text[:77] + "..."


def unfit(value: object) -> str:
    """What keeps a value from being one of any setting: no path, name or packet can have a NUL."""
    return "has a NUL character, which no setting may have" if isinstance(value, str) and "\0" in value else ""


def without_password(text: str) -> str:
    """The same text; where it is a URL with a password, that is starred out."""
    if "://" not in text or "@" not in text:
        return text
    parts = urlsplit(text)
    credentials, at, hosts = parts.netloc.rpartition("@")
    user, colon, _ = credentials.partition(":")
    return urlunsplit(parts._replace(netloc=f"{user}:***{at}{hosts}")) if colon else text


# --- YAML ----------------------------------------------------------------------------------------------------------


def read_yaml(text: str) -> Sources:
    """Parse a configuration file; a syntax error or a key given twice becomes a problem with its line."""
    sources = Sources()
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            data = _Builder(loader, sources).build(node, ())
            if isinstance(data, dict):
                sources.data = data
            elif data is not None:
                sources.problems.append(f"the file must be a mapping of sections, not {type(data).__name__}")
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        sources.problems.append(f"{line}not valid YAML: {error.problem or error.context}")
    except yaml.reader.ReaderError as error:
        sources.problems.append(f"not valid YAML: a character that it does not allow at position {error.position}")
    except ValueError as error:  # an impossible date, for example
        sources.problems.append(f"not valid YAML: {error}")
    except RecursionError:
        sources.problems.append("not valid YAML: nested too deeply")
    finally:
        if loader is not None:
            loader.dispose()
    return sources


class _Builder:
    """Builds plain data from YAML nodes and notes each one's line."""

    def __init__(self, loader: yaml.SafeLoader, sources: Sources) -> None:
        self.loader = loader
        self.sources = sources
        self.open_nodes: set[int] = set()

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.sources.origins.setdefault(path, f"line {node.start_mark.line + 1}") if path else None
        if isinstance(node, yaml.ScalarNode):
            value = self.loader.construct_object(node)
            if problem := unfit(value):
                self.sources.problems.append(f"{self.sources.where(path)}: {shown(path, value)} {problem}")
            return value
        if id(node) in self.open_nodes:
            raise yaml.constructor.ConstructorError(None, None, "an anchor that holds itself", node.start_mark)
        self.open_nodes.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            built: Any = [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        else:
            assert isinstance(node, yaml.MappingNode)
            built = self._mapping(node, path)
        self.open_nodes.discard(id(node))
        return built

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        self._refuse_twice(node, path)
        self.loader.flatten_mapping(node)
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            self.sources.origins[(*path, key)] = f"line {key_node.start_mark.line + 1}"
            built[key] = self.build(value_node, (*path, key))
        return built

    def _refuse_twice(self, node: yaml.MappingNode, path: Path) -> None:
        first: dict[str, int] = {}
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain name", key_node.start_mark)
            if key_node.value in first and key_node.value != "<<":
                where = dotted((*path, key_node.value))
                self.sources.problems.append(f"{where} (line {line}): given twice, first on line {first[key_node.value]}")
            first.setdefault(key_node.value, line)


# --- environment ---------------------------------------------------------------------------------------------------


def parse_scalar(text: str) -> Any:
    """A value of an environment variable: a YAML scalar, or a list or mapping in brackets; anything else is text."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    if isinstance(value, dict | list) and not text.lstrip().startswith(("{", "[")):
        return text
    return value


def overlay_environment(
    sources: Sources, environ: Mapping[str, str], plugin_names: Iterable[str], at_the_top: Collection[str]
) -> None:
    """Lay every ``TIDELINE__SECTION__KEY`` variable over the data, in the order of their names.

    List items go by index; the index after the last one adds an item. Plugins go by alias, or by class path or class name
    with every other character than a letter or digit replaced by ``_``; those ``at_the_top`` may be named there.
    """
    names = list(plugin_names)
    laid = [(_keys(variable, at_the_top), variable) for variable in environ if variable.startswith(ENVIRONMENT_PREFIX)]
    for keys, variable in sorted(laid, key=lambda item: _numeric_order(item[0])):
        value = parse_scalar(environ[variable])
        problem = unfit(value) or _lay(sources, keys, variable, value, names)
        if problem:
            sources.problems.append(f"{variable}: {problem}")
    for variable in sorted(environ):
        if meant := _meant(variable):
            sources.problems.append(f"{variable}: names no setting, did you mean {meant!r}?")


def _meant(variable: str) -> str:
    """What a variable was to be that has one underscore where two belong: it would be passed over, and the default hold.

    One without any pair is not asked about: Kubernetes makes such names itself (``TIDELINE_MQTT_SERVICE_HOST``).
    """
    first = ENVIRONMENT_PREFIX[:-1]
    rest = variable.removeprefix(first)
    return ENVIRONMENT_PREFIX + rest if variable.startswith(first) and rest[:1] != "_" and "__" in rest else ""


def _keys(variable: str, at_the_top: Collection[str]) -> list[str]:
    keys = variable.removeprefix(ENVIRONMENT_PREFIX).split("__")
    return ["PLUGINS", *keys] if keys[0].lower() in at_the_top else keys


def _numeric_order(keys: list[str]) -> list[tuple[int, str]]:
    return [(int(part) if part.isdecimal() else -1, part) for part in keys]


def _lay(sources: Sources, keys: list[str], variable: str, value: Any, plugin_names: list[str]) -> str | None:
    """Set one value; says what is wrong with the name, or None."""
    if not all(keys):
        return "an empty name between underscores"
    target: Any = sources.data
    path: Path = ()
    for depth, key in enumerate(keys):
        step = _step(target, key, path, plugin_names)
        if step is None:
            last = len(target) - 1 if isinstance(target, list) else 0
            return (
                f"{dotted(path)} is a list: {key!r} must be an index, 0 to {last + 1}"
                if isinstance(target, list)
                else (f"{dotted(path)} is a single value, it holds no {key.lower()!r}")
            )
        path = (*path, step)
        final = depth == len(keys) - 1
        if isinstance(target, list):
            if step == len(target):
                target.append(None)
            index: Any = step
        else:
            index = step
            target.setdefault(index, None)
        if final:
            target[index] = value
            for stale in (path, sources.as_written(path)):
                sources.origins = {p: o for p, o in sources.origins.items() if p[: len(stale)] != stale}
            sources.origins[path] = f"environment {variable}"
        elif target[index] is None or (path[0] == "plugins" and target[index] is False):
            target[index] = [] if keys[depth + 1].isdecimal() else {}
            sources.origins.setdefault(path, f"environment {variable}")
        target = target[index]
    return None


def _step(target: Any, key: str, path: Path, plugin_names: list[str]) -> str | int | None:
    """The key or index that a part of a variable's name stands for; None where there can be none."""
    if isinstance(target, list):
        return int(key) if key.isdecimal() and int(key) <= len(target) else None
    if not isinstance(target, dict):
        return None
    if path == ("plugins",):
        return plugin_key(key, [*target, *plugin_names])
    return next((known for known in target if known.upper() == key.upper()), key.lower())


def plugin_key(name: str, known: Iterable[str]) -> str:
    """The configured plugin that an upper-cased name stands for: an alias, a class path, or a class name."""
    for candidate in known:
        if name.upper() in (_plain(candidate), _plain(candidate.rpartition(".")[2])):
            return candidate
    return name.lower()


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()
