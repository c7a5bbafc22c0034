"""`tideline serve` as a process: where it listens, how it ends, what it says when it cannot start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.cli.processes import PATIENCE, Api, command, environment, ran, serving

CONNECT = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c"
MEMORY = {"TIDELINE__PLUGINS__PERSISTENCE__URL": "memory://"}


def connack(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.settimeout(PATIENCE)
        client.sendall(CONNECT)
        return client.recv(4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_serves_and_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path, "--data", "here") as broker:
        port = broker.port()
        assert broker.line("listening websocket ws://127.0.0.1:").endswith("/mqtt")
        assert broker.line("storing") == "storing sqlite:///here/tideline.db"
        assert connack(port) == b"\x20\x02\x00\x00"
        broker.signal(number)
        assert broker.wait() == 0
        assert "Traceback" not in broker.log
    assert (tmp_path / "here" / "tideline.db").exists()
    assert not (tmp_path / "data").exists()


def test_a_config_file_in_the_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("plugins:\n  persistence: {url: 'memory://'}\nlog: {format: json}\n")
    with serving(tmp_path) as broker:
        assert broker.line("storing") == "storing memory://"
        broker.signal(signal.SIGTERM)
        assert broker.wait() == 0
        lines = [json.loads(line) for line in broker.log.splitlines()]
    assert {"time", "level", "logger", "message"} == set(lines[0])
    assert any(line["message"] == "configuration: config.yaml" for line in lines)


def test_a_configuration_that_names_other_plugins_alone_keeps_everything(tmp_path: Path) -> None:
    """`plugins:` with an authentication plugin and nothing else: not a word about storage, and nothing is lost by it."""
    (tmp_path / "config.yaml").write_text("plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n")
    with serving(tmp_path) as broker:
        with socket.create_connection(("127.0.0.1", broker.port()), PATIENCE) as client:
            client.settimeout(PATIENCE)
            client.sendall(CONNECT + b"\x32\x09\x00\x03a/b\x00\x01hi")
            answer = client.makefile("rb")
            assert answer.read(8) == b"\x20\x02\x00\x00" + b"\x40\x02\x00\x01"
        assert broker.line("storing") == "storing sqlite:///data/tideline.db"
        broker.signal(signal.SIGKILL)
        broker.wait()
    shown = ran(tmp_path, "inspect", "messages", "a/b")
    assert "hi" in shown.stdout, shown.stderr


def test_what_it_makes_is_its_owners_alone(tmp_path: Path) -> None:
    """The database with its log and shared memory, the search index, the locks, the operator's file; beside others' folders."""
    (tmp_path / "there").mkdir(mode=0o755)
    before = os.umask(0o022)
    try:
        with serving(tmp_path, "-d", "there/new/data") as broker:
            api = Api(broker, tmp_path / "there" / "new")
            api.search(q="x", wait_indexed=api.post("a/b", "x")["id"], wait=60)
            made = sorted((tmp_path / "there").rglob("*"))
            modes = {path.name: oct(path.stat().st_mode & 0o777) for path in made}
    finally:
        os.umask(before)
    assert {"tideline.db", "tideline.db-wal", "tideline.db-shm", "tideline.db.lock", "search.db", "search.db-wal"} <= set(modes)
    assert modes == {path.name: "0o700" if path.is_dir() else "0o600" for path in made}
    assert oct((tmp_path / "there").stat().st_mode & 0o777) == "0o755"


def test_a_broker_that_keeps_nothing_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("persistence: memory://\n")
    with serving(tmp_path) as broker:
        assert broker.line("storing") == "storing memory://"
        broker.signal(signal.SIGTERM)
        assert broker.wait() == 0
        (warning,) = [line for line in broker.log.splitlines() if "memory://" in line]
    assert " warning " in warning
    assert "every message, session and retained message is lost when this ends" in warning


def fails(tmp_path: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """(exit code, what `serve` said as an error); there is exactly one line of it and no traceback."""
    done = ran(tmp_path, "serve", *arguments, TIDELINE__LOG__LEVEL="error", **variables)
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert done.stdout == ""
    return done.returncode, line


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, line = fails(tmp_path, **{**MEMORY, "TIDELINE__LISTENERS__1__BIND": f"127.0.0.1:{port}"})
    assert code == 3
    assert f"listener websocket: cannot listen on 127.0.0.1:{port}: address already in use" in line


def test_an_api_that_cannot_be_served_is_one_line(tmp_path: Path) -> None:
    """Who configured it would else find another program at its address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        code, line = fails(tmp_path, **{**MEMORY, "TIDELINE__PLUGINS__HTTP__BIND": bind})
    assert code == 3
    assert f"plugins.http: cannot listen on {bind}: address already in use" in line
    code, line = fails(tmp_path, **{**MEMORY, "TIDELINE__PLUGINS__HTTP__CERTFILE": "no.pem"})
    assert code == 2
    assert "plugins.http: certfile no.pem: no such file or directory" in line


def test_data_that_another_broker_serves_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path) as broker:
        broker.line("storing")
        code, line = fails(tmp_path)
    assert code == 3
    assert "data/tideline.db" in line


def test_a_data_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    code, line = fails(tmp_path, "--data", "file/data")
    assert code == 3
    assert "file/data" in line


def test_wrong_settings_are_one_line_each(tmp_path: Path) -> None:
    code, line = fails(tmp_path, TIDELINE__MQTT__INFLIGHT_WINDW="1")
    assert (code, "did you mean 'inflight_window'?" in line) == (2, True)
    code, line = fails(tmp_path, TIDELINE__PLUGINS__SYS__INTERVALL="1")
    assert (code, "did you mean 'interval'?" in line) == (2, True)


def test_one_start_tells_all_that_is_wrong(tmp_path: Path) -> None:
    """Whatever kinds of faults there are, `serve` stops for all of them at once, as `check` tells them."""
    (tmp_path / "c.yaml").write_text("""\
mqtt: {inflight_windw: 4}
listeners:
  - {name: a, bind: "127.0.0.1:0", tls: {certfile: no.pem}}
  - {name: b}
persistence: memory://
plugins:
  sys: {interval: often}
  no.such.Plugin:
  tests.plugin_host.third_party.Second: {url: "memory://"}
""")
    done = ran(tmp_path, "serve", "-c", "c.yaml", "--data", "here", "--workers", "2")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    for part in (
        "c.yaml: mqtt.inflight_windw (line 1): unknown, did you mean 'inflight_window'?",
        "--data: the configuration stores elsewhere (memory://); leave --data out",
        "c.yaml: plugins.sys.interval (line 7): 'often' must be",
        "c.yaml: plugins.no.such.Plugin (line 8): cannot be imported",
        "c.yaml: plugins: persistence, tests.plugin_host.third_party.Second: only one plugin provides the storage",
        "c.yaml: listener a: tls.certfile no.pem: no such file or directory",
        "--workers 2: memory serves one node",
    ):
        assert [line.startswith(f"tideline: {part}") for line in lines].count(True) == 1, (part, lines)
    assert len(lines) == 7


def test_data_makes_no_sense_for_a_database_elsewhere(tmp_path: Path) -> None:
    code, line = fails(tmp_path, "--data", "x", TIDELINE__PLUGINS__PERSISTENCE__URL="mongodb://h/d")
    assert code == 2
    assert "--data: the configuration stores elsewhere" in line


def test_uvloop_is_used_where_it_is_installed() -> None:
    uvloop = pytest.importorskip("uvloop")
    from broker.cli.serve import loop_factory

    assert loop_factory() is uvloop.new_event_loop


@pytest.mark.parametrize("imported", ["click.core", "broker.cli.main", "pydantic", "storage.interface"])
def test_an_interrupt_while_modules_are_imported_ends_it_quietly(tmp_path: Path, imported: str) -> None:
    """Python says of each module when it was imported, on standard error; the interrupt comes in the middle of that."""
    program, *arguments = command("serve")
    process = subprocess.Popen(
        [program, "-X", "importtime", *arguments],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(Path(__file__).resolve().parents[2])),
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if line.split("|")[-1].strip() == imported)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert said
    assert "Traceback" not in rest
    assert process.returncode == -signal.SIGINT  # which a shell tells as 130
