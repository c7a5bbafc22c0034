"""What `tideline check` warns of, and which plugins it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config.check import plugin_problems, warnings
from broker.config.settings import Settings, load

PASSWORDS = {
    "TIDELINE__PLUGINS": f"{{persistence: , amqtt.plugins.authentication.FileAuthPlugin: {{password_file: '{__file__}'}}}}"
}


def test_the_defaults_have_neither() -> None:
    assert plugin_problems(Settings()) == []
    assert warnings(Settings()) == []


def test_anonymous_and_plain_listeners_for_others_are_warned_of() -> None:
    first, second = warnings(load(None, {"TIDELINE__LISTENERS__0__BIND": "0.0.0.0:1883"}))
    assert first.startswith("listener mqtt: 0.0.0.0:1883 can be reached from other machines, and anonymous clients")
    assert "without TLS" in second


def test_passwords_leave_the_warning_about_plain_text() -> None:
    (only,) = warnings(load(None, {"TIDELINE__LISTENERS__0__BIND": "10.0.0.1:1883", **PASSWORDS}))
    assert "without TLS" in only


def test_names_that_nobody_verifies_are_warned_of() -> None:
    (only,) = warnings(load(None, {"TIDELINE__PLUGINS__ANONYMOUSAUTHPLUGIN__ALLOW_ANONYMOUS": "false"}))
    assert "no plugin checks a password" in only


def test_no_authentication_lets_nobody_in() -> None:
    (only,) = warnings(load(None, {"TIDELINE__PLUGINS": "{persistence: }"}))
    assert "nobody is let in" in only


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgres://u:sesame@h/d", "scheme is 'postgres': it must be sqlite://, mongodb:// or memory://"),
        ("data/tideline.db", "has no scheme"),
        ("sqlite://", "names no file"),
        ("mongodb://u:sesame@host", "names no database"),
    ],
)
def test_a_storage_that_cannot_be_is_refused_without_telling_its_password(url: str, told: str) -> None:
    (problem,) = plugin_problems(load(None, {"TIDELINE__PLUGINS__PERSISTENCE__URL": url}))
    assert told in problem
    assert "sesame" not in problem


def test_unreadable_certificates_are_warned_of(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("x")
    tls = {"TIDELINE__LISTENERS__0__TLS": f"{{certfile: '{tmp_path}/cert.pem', keyfile: '{tmp_path}/key.pem'}}"}
    assert warnings(load(None, tls)) == [f"listener mqtt: tls.keyfile {tmp_path}/key.pem cannot be read"]


def test_files_of_plugins_that_are_not_there_are_warned_of(tmp_path: Path) -> None:
    file_auth = "amqtt.plugins.authentication.FileAuthPlugin"
    plugins = f"{{http: {{certfile: {tmp_path}/cert.pem}}, {file_auth}: {{password_file: {tmp_path}/pw}}}}"
    assert warnings(load(None, {"TIDELINE__PLUGINS": plugins})) == [
        f"plugins.http: certfile {tmp_path}/cert.pem cannot be read",
        f"plugins.{file_auth}: password_file {tmp_path}/pw cannot be read",
    ]
    (tmp_path / "cert.pem").touch()
    (tmp_path / "pw").touch()
    assert warnings(load(None, {"TIDELINE__PLUGINS": plugins})) == []


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        ("127.0.0.1:99", "127.0.0.1:99", True),
        ("127.0.0.1:99", "127.0.0.2:99", False),
        ("127.0.0.1:99", "127.0.0.1:98", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
    ],
)
def test_ports_wanted_twice_are_warned_of(first: str, second: str, clash: bool) -> None:
    found = warnings(load(None, {"TIDELINE__LISTENERS__0__BIND": first, "TIDELINE__LISTENERS__1__BIND": second}))
    assert bool(found) is clash
    assert all("both want port 99" in warning for warning in found)


def test_a_plugin_that_listens_is_looked_at_too() -> None:
    (only,) = warnings(load(None, {"TIDELINE__PLUGINS__HTTP__BIND": "0.0.0.0:8080"}))
    assert only.startswith("plugins.http: 0.0.0.0:8080 can be reached from other machines without TLS")
    (clash,) = warnings(load(None, {"TIDELINE__PLUGINS__HTTP__BIND": "127.0.0.1:1883"}))
    assert clash == "listener mqtt and plugins.http both want port 1883 (127.0.0.1:1883, 127.0.0.1:1883)"


@pytest.mark.parametrize(
    ("plugins", "expected"),
    [
        ("{no.such.Plugin: {}}", "no.such.Plugin: cannot be imported"),
        ("{pathlib.Path: {}}", "pathlib.Path: is not an amqtt plugin"),
        ("{persistence: {ulr: x}}", "unknown setting ulr; did you mean url?"),
        ("{persistence: {url: [1]}}", "url must be text"),
        ("{sync: {start: sometimes}}", "start 'sometimes' must be latest"),
    ],
)
def test_plugins_that_cannot_be_loaded_are_errors(plugins: str, expected: str) -> None:
    (problem,) = plugin_problems(load(None, {"TIDELINE__PLUGINS": plugins}))
    assert expected in problem
