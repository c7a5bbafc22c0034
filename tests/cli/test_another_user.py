"""Commands of a user who may not enter the folder of what they are about: told in a line that names it, never a traceback."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker.cli.main import main
from tests.support.unprivileged import no_privileges

DEFAULTS = "plugins: {persistence: }\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may write, with ``closed`` in it, which its owner may not even enter."""
    mask = os.umask(0o022)
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        made.chmod(0o777)
        (made / "closed").mkdir(mode=0)
        yield made
        (made / "closed").chmod(0o700)
    os.umask(mask)


def told(*arguments: str) -> Result:
    """By a user without privileges; once before as who runs the tests, so that all of the command is imported."""
    CliRunner().invoke(main, arguments)
    with no_privileges():
        done = CliRunner().invoke(main, arguments)
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify"],
        ["verify", "--repair"],
        ["inspect", "devices"],
        ["export", "{}/own.export"],
        ["backup", "{}/own"],
        ["reindex", "-c", "{}/config.yaml"],
    ],
)
def test_data_in_a_closed_folder(folder: Path, arguments: list[str]) -> None:
    (folder / "config.yaml").write_text("plugins: {persistence: , search: }\n")
    done = told(*(word.format(folder) for word in arguments), "--data", f"{folder}/closed/data")
    assert done.exit_code == 3
    assert f"{folder}/closed/data" in done.output
    assert "Permission denied" in done.output
    assert not list(folder.glob("own*"))


def test_a_broker_in_a_closed_folder(folder: Path) -> None:
    (folder / "config.yaml").write_text(DEFAULTS)
    done = told("doctor", "-c", f"{folder}/config.yaml", "--data", f"{folder}/closed/data")
    assert done.exit_code == 1
    assert f"{folder}/closed may not be written by this user" in done.output


def test_certificates_in_a_closed_folder_are_warned_of(folder: Path) -> None:
    tls = f"{{certfile: {folder}/closed/cert.pem, keyfile: {folder}/closed/key.pem, cafile: {folder}/closed/ca.pem}}"
    config = folder / "config.yaml"
    config.write_text(f"listeners: [{{name: mqtt, type: tcp, bind: '127.0.0.1:0', tls: {tls}}}]\n{DEFAULTS}")
    done = told("check", "-c", str(config))
    assert done.exit_code == 0, done.output
    for name, file in (("certfile", "cert"), ("keyfile", "key"), ("cafile", "ca")):
        assert f"warning: listener mqtt: tls.{name} {folder}/closed/{file}.pem cannot be read" in done.output
    done = told("serve", "-c", str(config), "--data", f"{folder}/data")
    assert done.exit_code == 2
    assert f"tls.certfile {folder}/closed/cert.pem: permission denied" in done.output


@pytest.mark.parametrize(
    "plugin",
    [
        'bridge: {{bridges: [{{name: b, address: "h:8883", receive: [{{filter: a}}], tls: true, cafile: {}/closed/ca.pem}}]}}',
        "webhooks: {{hooks: [{{name: h, url: 'https://h/', cafile: {}/closed/ca.pem,"
        " secrets: [whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw]}}]}}",
    ],
)
def test_what_a_plugin_trusts_in_a_closed_folder(folder: Path, plugin: str) -> None:
    (folder / "config.yaml").write_text(f"plugins: {{persistence: , {plugin.format(folder)}}}\n")
    done = told("check", "-c", f"{folder}/config.yaml")
    assert done.exit_code == 2
    assert f"'{folder}/closed/ca.pem': there is no such file that this user can read" in done.output


def test_files_of_mosquitto_in_a_closed_folder(folder: Path) -> None:
    conf = folder / "mosquitto.conf"
    conf.write_text(f"include_dir {folder}/closed\n")
    done = told("import", "mosquitto", str(conf))
    assert (done.exit_code, done.output) == (
        2,
        f"tideline: {conf}, line 1: cannot read {folder}/closed: Permission denied\n",
    )
    conf.write_text("")
    done = told("import", "mosquitto", str(conf), "--out", f"{folder}/closed/c.yaml")
    assert (done.exit_code, done.output) == (2, f"tideline: cannot write {folder}/closed/c.yaml: Permission denied\n")


def test_a_demo_in_a_closed_folder(folder: Path) -> None:
    from broker.cli import demo, demo_parts  # noqa: F401 - else it would be imported by who may not read it

    with no_privileges():
        done = CliRunner().invoke(main, ["demo", "--keep", f"{folder}/closed/demo"])
    assert (done.exit_code, done.output) == (2, f"tideline: --keep {folder}/closed/demo: Permission denied\n")


def test_a_current_folder_that_is_closed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = folder / "closed"
    inner.chmod(0o700)
    monkeypatch.chdir(inner)
    inner.chmod(0)
    done = told("check")
    assert done.exit_code == 2
    assert "this user may not look for config.yaml in the current folder: name it with --config" in done.output
