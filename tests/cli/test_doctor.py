"""`tideline doctor`: what will hurt on this machine is found, and what is well is said."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from broker.cli import doctor_checks
from broker.config import load
from tests.cli.processes import ran, serving
from tests.support.certificates import Certificates


def doctor(folder: Path, *arguments: str, **variables: str) -> tuple[int, list[dict[str, str]]]:
    done = ran(folder, "doctor", "--json", *arguments, **variables)
    assert "Traceback" not in done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def found(lines: list[dict[str, str]], subject: str) -> dict[str, str]:
    (line,) = [line for line in lines if line["subject"] == subject]
    return line


def hurts(lines: list[dict[str, str]]) -> list[dict[str, str]]:
    """What would hurt on any machine; where this one's folder for tests lies is no matter."""
    return [line for line in lines if line["level"] == "fail" and "in memory" not in line["text"] and line["subject"] != "disk"]


def test_a_machine_that_is_well_and_the_broker_on_it(tmp_path: Path) -> None:
    _, lines = doctor(tmp_path)
    assert hurts(lines) == []
    assert "made at the first start" in found(lines, "storage")["text"]
    assert found(lines, "broker")["text"] == "none runs here"
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"
    with serving(tmp_path) as broker:
        broker.line("storing")
        _, lines = doctor(tmp_path)
        assert hurts(lines) == []
        assert found(lines, "broker")["text"].endswith("and is well")
        assert "0 sessions, 0 retained messages" in found(lines, "storage")["text"]
        (tmp_path / "data" / "operator.json").unlink()
        code, lines = doctor(tmp_path)
        assert code == 1
        assert (line := found(lines, "broker"))["level"] == "fail"
        assert line["text"].startswith(f"process {broker.process.pid} serves the data, and commands cannot ask it")
        broker.signal(signal.SIGTERM)
        assert broker.wait() == 0
    os.chmod(tmp_path / "data" / "tideline.db", 0o644)
    _, lines = doctor(tmp_path)
    assert any("chmod 600" in line["text"] for line in lines if line["subject"] == "persistence.url")
    assert hurts(lines) == []


def test_a_disk_that_takes_nothing_is_told(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        (finding,) = doctor_checks._fsync(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert finding.level == "fail"
    assert f"{tmp_path} cannot be written" in finding.text


def test_what_hurts_is_said_with_what_to_do(tmp_path: Path) -> None:
    key = tmp_path / "server.key"
    made = Certificates(tmp_path)
    key.write_bytes(made.server_key.read_bytes())
    key.chmod(0o644)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tideline.db").write_bytes(b"no database, and not empty either")
    (tmp_path / "config.yaml").write_text(
        "listeners:\n"
        f"  - {{name: mqtts, bind: '127.0.0.1:0', tls: {{certfile: '{made.server}', keyfile: '{key}'}}}}\n"
        "  - {name: other, bind: '127.0.0.1:0'}\n"
    )
    code, lines = doctor(tmp_path)
    assert code == 1
    assert found(lines, "listeners.mqtts.tls.keyfile")["level"] == "fail"
    assert found(lines, "storage")["level"] == "fail"
    (tmp_path / "config.yaml").write_text("listeners: {}\n")
    code, lines = doctor(tmp_path)
    assert (code, lines) == (2, [])


@pytest.mark.parametrize(
    ("check", "changes", "level", "says"),
    [
        (doctor_checks.ports, {"user": 1000}, "warn", "PrivateUsers=false"),
        (doctor_checks.open_files, {"hard": 100}, "warn", "LimitNOFILE="),
        (doctor_checks.open_files, {"hard": resource.RLIM_INFINITY}, "ok", "any number"),
        (doctor_checks.folders, {"mount": "nfs4"}, "fail", "local disk"),
        (doctor_checks.folders, {"mount": "tmpfs"}, "fail", "restarts"),
        (doctor_checks.folders, {"free": 1 << 20}, "fail", "nobody is acknowledged"),
        (doctor_checks.folders, {"free": 100 << 20}, "warn", "make room"),
        (doctor_checks.folders, {"took": 0.05}, "warn", "faster disk"),
        (doctor_checks.folders, {"took": 0.000001}, "warn", "power cut"),
    ],
)
def test_what_a_machine_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, check: doctor_checks.Check, changes: dict[str, Any], level: str, says: str
) -> None:
    """Machines that are not at hand: what the system would answer there stands in for its answer."""
    monkeypatch.chdir(tmp_path)
    bind = "127.0.0.1:443"
    if "user" in changes:
        monkeypatch.setattr(os, "geteuid", lambda: changes["user"])
    if "hard" in changes:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (10, changes["hard"]))
    if "mount" in changes:
        monkeypatch.setattr(doctor_checks, "_kind_of", lambda _: changes["mount"])
    if "free" in changes:
        usage = shutil._ntuple_diskusage(1 << 30, 0, changes["free"])
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    if "took" in changes:
        ticks = iter(n * changes["took"] for n in range(1000))
        monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    findings = list(check(load(None, {"TIDELINE__PLUGINS__HTTP__BIND": bind})))
    assert [finding for finding in findings if finding.level == level and says in finding.text], findings


@pytest.mark.parametrize(
    ("governor", "polled", "says"),
    [("haltpoll", "0\n", "halts at once"), ("haltpoll", "200000\n", "up to 200 µs"), ("menu", "0\n", None), (None, None, None)],
)
def test_a_virtual_processor_that_halts_at_once_is_told_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, governor: str | None, polled: str | None, says: str | None
) -> None:
    for name, text in (("_GOVERNOR", governor), ("_POLLED", polled)):
        monkeypatch.setattr(doctor_checks, name, str(tmp_path / name))
        if text is not None:
            (tmp_path / name).write_text(text)
    found = list(doctor_checks.wake_ups(load(None, {})))
    assert [finding.level for finding in found] == ["ok"] * len(found)
    assert says in found[0].text if says else found == []


def test_the_folder_of_an_index_is_looked_at(tmp_path: Path) -> None:
    """That of tantivy lies beside where the embedded engine has its file."""
    config, folder = tmp_path / "config.yaml", tmp_path / "data" / "search.tantivy"
    config.write_text(f"plugins: {{search: {{engine: tantivy, path: '{tmp_path}/data/search.db'}}}}\n")
    folder.mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)

    def said() -> list[str]:
        return [f.text for f in doctor_checks.folders(load(config, {})) if f.subject == "plugins.search.path"]

    assert not [text for text in said() if str(folder) in text]
    folder.chmod(0o755)
    assert f"{folder} can be read by others (mode 0755): chmod 700 {folder}" in said()


def test_a_disk_is_told_in_a_unit_that_fits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(3 << 29, 0, 40 << 20))
    (finding,) = doctor_checks._room(load(None, {}), "data", tmp_path)
    assert "40.0 MiB of 1.5 GiB free" in finding.text
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 20, 0, 512))
    (finding,) = doctor_checks._room(load(None, {}), "data", tmp_path)
    assert "0.5 KiB of 1.0 MiB free" in finding.text


def test_what_is_stored_and_guarded_by_no_plugin_is_told_as_serve_would(tmp_path: Path) -> None:
    assert ran(tmp_path, "acl", "add", "allow", "all", "a/#").returncode == 0
    assert found(doctor(tmp_path)[1], "storage")["level"] == "ok"
    told = found(doctor(tmp_path, TIDELINE__PLUGINS="{accounts: }")[1], "storage")
    assert told["level"] == "fail"
    assert "the storage holds access rules" in told["text"]
    assert found(doctor(tmp_path, TIDELINE__PLUGINS="{acl: false}")[1], "storage")["level"] == "ok"
