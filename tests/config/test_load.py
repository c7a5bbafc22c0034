"""Settings from a file and the environment, and what is said about wrong ones."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.config.settings import ConfigError, Settings, load, parse_duration, parse_size, split_bind

ROOT = Path(__file__).resolve().parents[2]


def problems(tmp_path: Path, text: str, **environ: str) -> list[str]:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, environ)
    return caught.value.problems


def settings(tmp_path: Path, text: str, **environ: str) -> Settings:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load(path, environ)


def test_no_file_gives_the_defaults() -> None:
    assert load(None, {}) == Settings()
    assert Settings().loopback_only


def test_the_shipped_file_equals_the_defaults() -> None:
    assert load(ROOT / "config.yaml", {}) == Settings()


def test_the_shipped_file_names_every_setting() -> None:
    text = (ROOT / "config.yaml").read_text()
    for section, field in Settings.model_fields.items():
        assert f"\n{section}:" in text
        for name in getattr(field.annotation, "model_fields", {}):
            assert f"\n  {name}: " in text, f"{section}.{name}"


def test_an_empty_file_and_empty_sections_are_the_defaults(tmp_path: Path) -> None:
    assert settings(tmp_path, "") == Settings()
    assert settings(tmp_path, "mqtt:\nplugins:\nlisteners:\n") == Settings()


def test_a_section_of_the_file_keeps_the_other_defaults(tmp_path: Path) -> None:
    loaded = settings(tmp_path, "mqtt: {inflight_window: 7}")
    assert loaded.mqtt.inflight_window == 7
    assert loaded.mqtt.receive_maximum == Settings().mqtt.receive_maximum
    assert loaded.plugins == Settings().plugins


def test_the_files_plugins_replace_the_defaults_in_their_order(tmp_path: Path) -> None:
    loaded = settings(tmp_path, "plugins:\n  sync:\n  my.own.Plugin: {a: 1}\n  persistence: {url: 'memory://'}\n  sys: false\n")
    assert list(loaded.plugins.items()) == [("sync", {}), ("my.own.Plugin", {"a": 1}), ("persistence", {"url": "memory://"})]
    assert list(loaded.plugin_classes()) == [
        "plugins.sync.InboxPlugin",
        "my.own.Plugin",
        "plugins.persistence.PersistencePlugin",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mqtt:\n  inflight_windw: 4", "mqtt.inflight_windw (line 2): unknown, did you mean 'inflight_window'?"),
        ("mqt: {}", "mqt (line 1): unknown, did you mean 'mqtt'?"),
        ("zebra:", "zebra (line 1): unknown; there is listeners, origins, mqtt, limits, hooks, log, plugins"),
        ("mqtt:\n\n  inflight_window: 0", "mqtt.inflight_window (line 3): 0 must be at least 1"),
        ("mqtt: {inflight_window: 70000}", "mqtt.inflight_window (line 1): 70000 must be at most 65535"),
        ("mqtt: {inflight_window: true}", "mqtt.inflight_window (line 1): true must be a whole number"),
        ("mqtt: {inflight_window: '5'}", "mqtt.inflight_window (line 1): '5' must be a whole number"),
        ("mqtt:\n  redirect: temporarily", "mqtt (line 1): redirect needs server_reference, the servers that clients use"),
        ("mqtt: {retain_available: 'maybe'}", "mqtt.retain_available (line 1): 'maybe' must be true or false"),
        ("mqtt: {max_keep_alive: 1.5s}", "mqtt.max_keep_alive (line 1): 1.5 must be a whole number"),
        (
            "limits: {page_bytes: lots}",
            'limits.page_bytes (line 1): \'lots\' must be a size in bytes, such as 65536, "64 KiB" or "16 MiB"',
        ),
        (
            "hooks: {timeout: soon}",
            'hooks.timeout (line 1): \'soon\' must be a duration in seconds, such as 10, "500ms", "5 min" or "1h"',
        ),
        ("hooks: {timeout: .inf}", "hooks.timeout (line 1): inf must be a finite number"),
        ("hooks: {timeout: 99999999999d}", "hooks.timeout (line 1): '99999999999d' must be at most"),
        (
            "limits:\n  page_bytes: 99999999999 GiB",
            "limits.page_bytes (line 2): '99999999999 GiB' must be at most 1125899906842624",
        ),
        ("limits: {write_high_water: 2 GiB}", "limits.write_high_water (line 1): '2 GiB' must be at most 1073741824"),
        (
            'plugins:\n  search:\n    path: "a\\0b"',
            "plugins.search.path (line 3): 'a\\x00b' has a NUL character, which no setting may have",
        ),
        ('plugins: {http: {metrics_token: "a\\0b"}}', "plugins.http.metrics_token (line 1): '***' has a NUL character"),
        ('origins: ["a\\0b"]', "origins[0] (line 1): 'a\\x00b' has a NUL character"),
        ("log: {level: loud}", "log.level (line 1): 'loud' must be 'debug', 'info', 'warning' or 'error'"),
        ("log: loud", "log (line 1): 'loud' must be a mapping of settings"),
        ("listeners: []", "listeners (line 1): [] needs at least one item"),
        ("listeners:\n- bind: 127.0.0.1:1\n", "listeners[0].name (line 2) is missing"),
        (
            "listeners:\n- {name: a, bind: '1883'}",
            "listeners[0].bind (line 2): '1883' must be host:port with a port of 0 to 65535, "
            "such as 127.0.0.1:1883 or [::1]:1883",
        ),
        ("listeners:\n- {name: a, bind: 'h:1', typ: ws}", "listeners[0].typ (line 2): unknown, did you mean 'type'?"),
        (
            "listeners:\n- {name: a, bind: 'h:1'}\n- {name: a, bind: 'h:2'}",
            "listeners[1].name (line 3): 'a' is the name of another listener; each needs its own",
        ),
        (
            "listeners:\n- {name: a, bind: 'h:1', tls: {certfile: c, require_client_certificate: true}}",
            "listeners[0].tls (line 2): require_client_certificate needs cafile, the authority that signs client certificates",
        ),
        ("plugins:\n  persistance: {}", "plugins.persistance (line 2): not a plugin, did you mean 'persistence'?"),
        ("plugins:\n  sync: 3", "plugins.sync (line 2): 3 must be a mapping"),
        ("plugins: [sync]", "plugins (line 1): a list must be a mapping of plugins to their settings"),
        (
            "plugins:\n  sync:\n  plugins.sync.InboxPlugin:",
            "plugins.sync (line 2): given twice, also as plugins.sync.InboxPlugin",
        ),
        ("mqtt: {}\nmqtt: {}", "mqtt (line 2): given twice, first on line 1"),
        ("mqtt: 2001-99-99", "not valid YAML: month must be in 1..12"),
        ("mqtt: \x1f", "not valid YAML: a character"),
        ("[" * 5000, "not valid YAML: nested too deeply"),
        ("- a", "the file must be a mapping of sections, not list"),
        ("mqtt: &a {x: *a}", "line 1: not valid YAML: an anchor that holds itself"),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_what_would_be_right(tmp_path: Path, text: str, expected: str) -> None:
    found = problems(tmp_path, text)
    assert any(problem.startswith(expected) for problem in found), found


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, "mqtt: {a: 1, inflight_window: x}\nplugins: {zzz: {}}\n", TIDELINE__LOG__LEVEL="3")
    assert len(found) == 4


def test_broken_yaml_has_its_line(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "mqtt:\n  a: [1\nlog: {}\n")
    assert problem.startswith("line 3: not valid YAML")


def test_an_unreadable_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nothing.yaml: No such file"):
        load(tmp_path / "nothing.yaml", {})
    (tmp_path / "latin.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "latin.yaml", {})


# --- environment ---------------------------------------------------------------------------------------------------


def test_a_variable_that_lacks_an_underscore_is_refused_and_those_of_others_are_not() -> None:
    others = {"TIDELINE_CONFIG": "x", "TIDELINE_MQTT_SERVICE_HOST": "10.0.0.1", "TIDELINE_PORT_1883_TCP": "x", "MY__VAR": "1"}
    load(None, others)
    with pytest.raises(ConfigError) as refused:
        load(None, {**others, "TIDELINE_MQTT__INFLIGHT_WINDOW": "5"})
    told = "TIDELINE_MQTT__INFLIGHT_WINDOW: names no setting, did you mean 'TIDELINE__MQTT__INFLIGHT_WINDOW'?"
    assert refused.value.problems == [told]


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    loaded = settings(
        tmp_path,
        "mqtt: {inflight_window: 7, receive_maximum: 9}",
        TIDELINE__MQTT__INFLIGHT_WINDOW="8",
        TIDELINE__LIMITS__PENDING_BYTES="1 MiB",
        TIDELINE__MQTT__RETAIN_AVAILABLE="false",
        TIDELINE__LISTENERS__0__BIND="0.0.0.0:99",
        UNRELATED="x",
    )
    assert (loaded.mqtt.inflight_window, loaded.mqtt.receive_maximum) == (8, 9)
    assert loaded.limits.pending_bytes == 1 << 20
    assert loaded.mqtt.retain_available is False
    assert (loaded.listeners[0].host, loaded.listeners[0].port) == ("0.0.0.0", 99)
    assert not loaded.loopback_only


def test_every_value_can_be_overridden() -> None:
    """Each scalar of each section, laid over by its own default's spelling, is read as that value again."""
    dumped = Settings().model_dump(exclude={"listeners", "origins", "plugins"})
    for section, values in dumped.items():
        for name, value in values.items():
            text = {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value) or "''"
            assert load(None, {f"TIDELINE__{section}__{name}".upper(): text}) == Settings(), f"{section}.{name}"


def test_plugins_go_by_alias_class_name_or_path() -> None:
    loaded = load(
        None,
        {
            "TIDELINE__PLUGINS__PERSISTENCE__URL": "mongodb://h/d",
            "TIDELINE__PLUGINS__ANONYMOUSAUTHPLUGIN__ALLOW_ANONYMOUS": "false",
            "TIDELINE__PLUGINS__SYS": "false",
            "TIDELINE__PLUGINS__HTTP": "{}",
            "TIDELINE__PLUGINS__SYNC__START": "last:5",
        },
    )
    assert loaded.plugins == {
        "persistence": {"url": "mongodb://h/d"},
        "sync": {"start": "last:5"},
        "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": False},
        "http": {},
        "console": {},
        "requests": {},
        "accounts": {},
        "recall": {},
        "jobs": {},
        "schedules": {},
        "acl": {},
        "search": {"engine": "embedded", "path": "data/search.db"},
    }
    path = "TIDELINE__PLUGINS__AMQTT_PLUGINS_AUTHENTICATION_ANONYMOUSAUTHPLUGIN__ALLOW_ANONYMOUS"
    assert load(None, {path: "false"}).plugins["amqtt.plugins.authentication.AnonymousAuthPlugin"] == {"allow_anonymous": False}


def test_lists_go_by_index_and_grow_by_one() -> None:
    environ = {
        f"TIDELINE__LISTENERS__{i}__{key}": value for i in (2, 3) for key, value in (("NAME", f"n{i}"), ("BIND", f"h:{i}"))
    }
    assert [listener.name for listener in load(None, environ).listeners] == ["mqtt", "websocket", "n2", "n3"]
    policy = {
        "TIDELINE__PLUGINS__PERSISTENCE__POLICIES__0__FILTER": "a/#",
        "TIDELINE__PLUGINS__PERSISTENCE__POLICIES__0__MODE": "none",
    }
    assert load(None, policy).plugins["persistence"]["policies"] == [{"filter": "a/#", "mode": "none"}]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("TIDELINE__MQTT__INFLIGTH_WINDOW", "3", "did you mean 'inflight_window'?"),
        (
            "TIDELINE__MQTT__INFLIGHT_WINDOW",
            "x",
            "mqtt.inflight_window (environment TIDELINE__MQTT__INFLIGHT_WINDOW): 'x' must be",
        ),
        ("TIDELINE__MQTT__RESPONSE_INFORMATION", '"a\\0b"', "has a NUL character, which no setting may have"),
        ("TIDELINE__LISTENERS__7__BIND", "h:1", "listeners is a list: '7' must be an index, 0 to 2"),
        ("TIDELINE__LISTENERS__X__BIND", "h:1", "listeners is a list: 'X' must be an index, 0 to 2"),
        ("TIDELINE__MQTT____X", "1", "an empty name between underscores"),
        ("TIDELINE__", "1", "an empty name between underscores"),
        ("TIDELINE__LISTENERS__0__NAME__X", "1", "listeners[0].name is a single value, it holds no 'x'"),
        ("TIDELINE__PLUGINS__PERSISTENSE__URL", "x", "did you mean 'persistence'?"),
    ],
)
def test_wrong_variables_are_refused(variable: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {variable: value})
    assert any(expected in problem for problem in caught.value.problems), caught.value.problems
    assert any(variable in problem for problem in caught.value.problems)


def test_secrets_are_not_told(tmp_path: Path) -> None:
    found = problems(
        tmp_path, "plugins: {search: {key: hush}}\nmqtt: {token_key: hush}\nlog: {level: 'mongodb://u:sesame@h/d'}\n"
    )
    assert "sesame" not in " ".join(found)
    assert "hush" not in " ".join(found)
    assert "mongodb://u:***@h/d" in " ".join(found)


# --- quantities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("64 KiB", 65536), ("16MiB", 16 << 20), ("1g", 1 << 30), ("2 kB", 2000), ("7", 7), ("1.5 MiB", 3 << 19), ("10 b", 10)],
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("500ms", 0.5), ("10s", 10), ("5 min", 300), ("1H", 3600), ("7d", 604800), ("2m", 120)]
)
def test_durations(text: str, value: float) -> None:
    assert parse_duration(text) == value


@pytest.mark.parametrize("text", ["", "x", "-1s", "1 s s", "1 parsec", "1e3", "١٠ fortnights"])
def test_other_text_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)


@pytest.mark.parametrize(("bind", "pair"), [("h:1", ("h", 1)), ("[::1]:0", ("::1", 0)), ("0.0.0.0:65535", ("0.0.0.0", 65535))])
def test_binds(bind: str, pair: tuple[str, int]) -> None:
    assert split_bind(bind) == pair


@pytest.mark.parametrize("bind", ["1883", ":1883", "h:", "h:65536", "::1:1883", "h:-1", "h:١"])
def test_other_binds_are_refused(bind: str) -> None:
    with pytest.raises(ValueError, match="must be host:port"):
        split_bind(bind)


@given(
    st.text(), st.dictionaries(st.from_regex(r"TIDELINE__[A-Z0-9_]{0,30}", fullmatch=True), st.text(max_size=20), max_size=4)
)
def test_no_text_and_no_environment_gets_past_config_error(text: str, environ: dict[str, str]) -> None:
    from broker.config.settings import build
    from broker.config.sources import read_yaml

    with contextlib.suppress(ConfigError):
        build(read_yaml(text), environ)
