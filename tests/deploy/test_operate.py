"""The tour of docs/operate.md: its configuration is right, and its commands exist as they are typed there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click

from broker.cli.import_ import Imports, import_file
from broker.cli.main import main
from broker.config import all_problems, load
from tests.support.certificates import Certificates

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operate.md").read_text()
UNIT = (ROOT / "deploy" / "systemd" / "tideline.service").read_text()
COMMAND = re.compile(r"(?:^|[ /`'=])tideline (?!tideline)([a-z][^`\n#|&]*)", re.MULTILINE)


def test_the_configuration_is_right_and_warns_of_nothing(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    text = re.search(r"```yaml\n(listeners:.*?)```", PAGE, re.DOTALL)
    assert text
    config = tmp_path / "config.yaml"
    there = {
        "/etc/tideline/server.pem": made.server,
        "/etc/tideline/server.key": made.server_key,
        "/var/lib/tideline": tmp_path,
    }
    written = text[1]
    for name, path in there.items():
        written = written.replace(name, str(path))
    config.write_text(written)
    assert all_problems(load(config, {})) == ([], [])


def commands(text: str) -> list[list[str]]:
    found = [line.split() for line in COMMAND.findall(text)]
    return [words for words in found if words and words[0] in main.list_commands(click.Context(main))]


def test_its_commands_exist_with_their_options() -> None:
    typed = [*commands(PAGE), *commands(UNIT)]
    assert {"check", "doctor", "user", "acl", "backup", "restore", "verify", "serve"} <= {words[0] for words in typed}
    for words in typed:
        command: click.Command = main
        rest = list(words)
        while isinstance(command, click.Group) and rest and (found := command.get_command(click.Context(command), rest[0])):
            command, rest = found, rest[1:]
        if isinstance(command, Imports) and rest:
            command = import_file
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= known, words
        assert not (isinstance(command, click.Group) and rest), words


def test_what_systemd_runs_says_which_configuration() -> None:
    """It sets no TIDELINE_CONFIG, and another folder's config.yaml is not meant."""
    lines = [line for line in (PAGE + UNIT).splitlines() if re.match(r"Exec\w+=/opt/tideline/bin/tideline ", line)]
    assert len(lines) >= 3
    assert [line for line in lines if "--config /etc/tideline/config.yaml" not in line] == []


def test_the_way_back_moves_all_of_the_database(tmp_path: Path) -> None:
    """After a kill the log beside it has what was acknowledged last; left there, it would be of no database."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("tideline.db", "tideline.db-wal", "tideline.db-shm", "tideline.db.lock", "search.db"):
        (data / name).write_text(name)
    way = re.search(r"The way back:.*?```\n(.*?)```", PAGE, re.DOTALL)
    assert way
    typed = [line for line in way[1].splitlines() if "tideline.db" in line or "mkdir" in line]
    script = "\n".join(typed).replace("sudo ", "").replace("-o tideline ", "").replace("/var/lib/tideline", str(data))
    subprocess.run(["sh", "-ec", script], check=True)
    assert [path.name for path in data.iterdir() if path.is_file()] == ["search.db"]
    assert len([path for path in data.rglob("tideline.db*") if path.is_file()]) == 4
