"""`tideline reload` and SIGHUP, on a broker as people run it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from tests.cli.processes import Process, ran, serving
from tests.cli.test_commands import tideline
from tests.support.until import wait_until


def write(folder: Path, *, level: str = "info", more_plugins: dict[str, object] | None = None, **more: object) -> None:
    anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": False}
    plugins = {"persistence": {}, "sync": {}, "http": {"bind": "127.0.0.1:0"}, "passwords": {"file": "users"}, **anonymous}
    plugins |= more_plugins or {}
    settings = {"log": {"level": level}, "plugins": plugins, **more}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))


def user(folder: Path, name: str, password: str) -> None:
    assert tideline("passwd", folder / "users", name, "--password-stdin", stdin=password + "\n").exit_code == 0


def reason(port: int, name: str, password: str) -> int:
    """How the broker answers a CONNECT."""
    answers: list[int] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, f"{name}-client")
    client.username_pw_set(name, password)
    client.on_connect = lambda *a: answers.append(a[3].value)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        wait_until(lambda: bool(answers))
    finally:
        client.disconnect()
        client.loop_stop()
    return answers[0]


def reload(folder: Path) -> subprocess.CompletedProcess[str]:
    return ran(folder, "reload")


def test_sighup_reloads_and_says_so(tmp_path: Path) -> None:
    user(tmp_path, "alice", "a")
    write(tmp_path)
    with serving(tmp_path) as broker:
        port = ready(broker)
        user(tmp_path, "bob", "b")
        assert reason(port, "bob", "b") != 0
        write(tmp_path, level="debug", limits={"page_entries": 7})
        broker.signal(signal.SIGHUP)
        wait_until(lambda: "log: debug" in broker.log)
        assert "reloaded: plugins.passwords: 2 users" in broker.log
        assert "changed, but needs a restart: limits.page_entries" in broker.log
        assert reason(port, "bob", "b") == 0
        assert " debug " in broker.log
        broker.signal(signal.SIGTERM)
        assert broker.wait() == 0


def ready(broker: Process) -> int:
    port = broker.port()
    broker.line("storing")
    return port


def test_so_does_tideline_reload(tmp_path: Path) -> None:
    user(tmp_path, "alice", "a")
    write(tmp_path)
    assert reload(tmp_path).returncode == 3
    with serving(tmp_path) as broker:
        port = ready(broker)
        user(tmp_path, "bob", "b")
        write(tmp_path, mqtt={"inflight_window": 7})
        told = reload(tmp_path)
        assert told.stdout == "reloaded: plugins.passwords: 2 users\n"
        assert told.stderr == "changed, but needs a restart: mqtt.inflight_window\n"
        assert told.returncode == 0
        assert reason(port, "bob", "b") == 0
        (tmp_path / "users").write_text("alice:sesame\n")
        told = reload(tmp_path)
        assert told.returncode == 1
        assert "tideline: not reloaded, it stays as it was: plugins.passwords.file (line 10): users, line 1: " in told.stderr
        assert "sesame" not in told.stderr + broker.log
        (tmp_path / "config.yaml").write_text("log: {level: loud}")
        broker.signal(signal.SIGHUP)
        wait_until(lambda: "config.yaml: log.level (line 1)" in broker.log)
        assert reason(port, "bob", "b") == 0
        assert broker.process.poll() is None


@pytest.mark.parametrize(
    ("plugins", "said"),
    [
        ({"sys": {"interval": "x"}}, "plugins.sys.interval (line 12): 'x' must be a number"),
        ({"attachments": {"max_size": "lots"}}, "plugins.attachments.max_size (line 6): 'lots' must be a size"),
        ({"jobs": {"retention": {"schedule": "nonsense"}}}, "plugins.jobs.retention.schedule"),
        (
            {"rules": {"rules": [{"name": "a", "topics": ["a"], "where": "@.a >", "republish": "b"}]}},
            "plugins.rules.rules[0].where",
        ),
    ],
)
def test_settings_with_which_it_would_not_start_are_told_and_nothing_is_applied(
    tmp_path: Path, plugins: dict[str, object], said: str
) -> None:
    user(tmp_path, "alice", "a")
    write(tmp_path)
    with serving(tmp_path) as broker:
        ready(broker)
        user(tmp_path, "bob", "b")
        write(tmp_path, level="debug", more_plugins=plugins)
        told = reload(tmp_path)
        assert told.returncode == 1
        assert told.stdout == ""
        (line,) = told.stderr.splitlines()
        assert said in line
        assert line.removeprefix("tideline: not reloaded, it stays as it was: ") in ran(tmp_path, "check").stderr
        assert " debug " not in broker.log
