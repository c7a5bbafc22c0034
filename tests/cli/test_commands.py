"""`tideline check`, `passwd` and help, as people call them."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path

import pytest
from amqtt.contexts import BaseContext
from amqtt.plugins.authentication import FileAuthPlugin
from amqtt.session import Session
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from broker.access.password_file import Passwords, read
from broker.access.scram import Credential
from broker.cli.logs import printable
from broker.cli.main import COMMANDS, main
from broker.cli.passwd import ask_password
from broker.cli.settings import Failure

ROOT = Path(__file__).resolve().parents[2]


def tideline(*arguments: str | Path, stdin: str | None = None, **environ: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin, env={**environ})


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["inspect", "messages"], ["inspect", "inbox"]])
def test_every_command_has_help(command: list[str]) -> None:
    shown = tideline(*command, "--help")
    assert shown.exit_code == 0
    assert shown.output.startswith("Usage: ")


@pytest.mark.parametrize(
    "called",
    [
        "inspect devices",
        "jobs run trim",
        "cluster leave",
        "cluster shard",
        "clients list",
        "ban list",
        "retained clear a",
        "conversation show a",
        "erase user ann --yes",
        "rules test --topic a --payload b",
        "acl list",
        "log level",
        "user list",
    ],
)
def test_what_says_where_a_broker_is_stands_before_a_subcommand_or_after_it(tmp_path: Path, called: str) -> None:
    """What stands after it counts, where both do."""
    group, *rest = called.split()
    wrong, right = tmp_path / "wrong.yaml", tmp_path / "right.yaml"
    wrong.write_text("nonsense: 1\n")
    right.write_text(f"persistence: sqlite:///{tmp_path}/nothing.db\n")
    places: list[list[str | Path]] = [
        [group, "-c", wrong, *rest],
        [group, *rest, "-c", wrong],
        [group, "-c", right, *rest, "-c", wrong],
    ]
    for place in places:
        assert "nonsense" in tideline(*place).output
    assert "nonsense" not in tideline(group, "-c", wrong, *rest, "-c", right).output


def test_the_version_is_the_packages() -> None:
    assert tideline("--version").output == "tideline 0.1.0\n"


# --- check ---------------------------------------------------------------------------------------------------------


def test_check_is_content_with_the_shipped_file() -> None:
    shown = tideline("check", "--config", ROOT / "config.yaml", "--strict")
    assert shown.exit_code == 0, shown.output
    assert "mqtt://127.0.0.1:1883" in shown.output
    assert "ws://127.0.0.1:8083/mqtt" in shown.output
    assert "sqlite:///data/tideline.db" in shown.output


def test_check_says_where_a_configuration_without_a_word_about_it_stores(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n")
    shown = tideline("check", "-c", path, "--strict")
    assert shown.exit_code == 0, shown.output
    assert "storage      sqlite:///data/tideline.db\n" in shown.output
    path.write_text("persistence: memory://\n")
    assert "storage      memory:// (nothing survives a restart)\n" in tideline("check", "-c", path).output


def test_check_says_what_is_wrong_and_where(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("mqtt:\n  inflight_windw: 4\n")
    shown = tideline("check", "-c", path)
    assert shown.exit_code == 2
    assert shown.stderr == f"tideline: {path}: mqtt.inflight_windw (line 2): unknown, did you mean 'inflight_window'?\n"


def test_one_check_finds_all_there_is(tmp_path: Path) -> None:
    """What is wrong with one setting hides nothing that is wrong with another, of whatever kind; and blames nothing that is
    right."""
    (tmp_path / "cert.pem").write_text("none")
    path = tmp_path / "c.yaml"
    path.write_text(f"""\
mqtt:
  inflight_windw: 4
listeners:
  - {{name: a, bind: "0.0.0.0:1883", max_connections: many}}
  - {{name: b, bind: "127.0.0.1:8883", tls: {{certfile: '{tmp_path}/cert.pem', cafile: '{tmp_path}/cert.pem'}}}}
  - {{name: c, bind: nowhere}}
persistence: 5
plugins:
  http: {{bind: nowhere, max_waiting: [1]}}
  search: {{engine: elastic, key: [1]}}
  sys: {{interval: often}}
  htpp: {{}}
  no.such.Plugin:
  amqtt.plugins.authentication.FileAuthPlugin: {{password_file: '{tmp_path}/cert.pem'}}
  amqtt.plugins.authentication.AnonymousAuthPlugin:
""")
    shown = tideline("check", "-c", path)
    assert shown.exit_code == 2
    for part in (
        "mqtt.inflight_windw (line 2): unknown",
        "listeners[0].max_connections (line 4): 'many' must be",
        "listener b: tls.certfile",
        "listener b: tls.cafile",
        "listeners[2].bind (line 6): 'nowhere' must be",
        "persistence (line 7): 5 must be",
        "plugins.http.bind (line 9): 'nowhere' must be",
        "plugins.http.max_waiting (line 9): must be",
        "plugins.search.engine (line 10): 'elastic' must be",
        "plugins.search.key (line 10): must be",
        "plugins.sys.interval (line 11): 'often' must be",
        "plugins.htpp (line 12): not a plugin",
        "plugins.no.such.Plugin (line 13): cannot be imported",
        "FileAuthPlugin.password_file (line 14): ",
        "warning: listener a: 0.0.0.0:1883 can be reached from other machines: anonymous",
        "warning: listener a: 0.0.0.0:1883 can be reached from other machines without TLS",
    ):
        assert shown.stderr.count(part) == 1, part
    assert len(shown.stderr.splitlines()) == 16, shown.stderr


def test_check_blames_no_setting_for_one_that_could_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("plugins:\n  search: {engine: meilisearch, url: [1]}\nlisteners: 5\n")
    shown = tideline("check", "-c", path)
    assert shown.stderr.splitlines() == [
        f"tideline: {path}: listeners (line 3): 5 must be a list",
        f"tideline: {path}: plugins.search.url (line 2): must be text, not a list",
    ]


def test_check_names_plugins_that_cannot_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("plugins:\n  no.such.Plugin:\n  persistence: {ulr: x}\n")
    shown = tideline("check", "-c", path)
    assert shown.exit_code == 2
    assert len(shown.stderr.splitlines()) == 2


def test_check_warns_and_strict_makes_it_an_exit_code() -> None:
    environ = {"TIDELINE__LISTENERS__0__BIND": "0.0.0.0:1883"}
    shown = tideline("check", "-c", ROOT / "config.yaml", **environ)
    assert shown.exit_code == 0
    assert shown.stderr.count("warning: ") == 2
    assert tideline("check", "-c", ROOT / "config.yaml", "--strict", **environ).exit_code == 1


def test_check_hides_the_password_of_a_database() -> None:
    environ = {"TIDELINE__PLUGINS__PERSISTENCE__URL": "mongodb://tide:sesame@host/db"}
    shown = tideline("check", "-c", ROOT / "config.yaml", **environ)
    assert "sesame" not in shown.output
    assert "mongodb://tide:***@host/db" in shown.output


# --- passwd --------------------------------------------------------------------------------------------------------


async def lets_in(file: Path, user: str, password: str) -> bool | None:
    """What amqtt's own plugin says of a user and password."""
    context = BaseContext()
    context.logger = logging.getLogger("test")
    context.config = FileAuthPlugin.Config(password_file=file)
    session = Session()
    session.username, session.password = user, password
    allowed: bool | None = await FileAuthPlugin(context).authenticate(session=session)
    return allowed


async def test_amqtt_accepts_the_passwords(tmp_path: Path) -> None:
    file = tmp_path / "passwords.txt"
    assert tideline("passwd", file, "alice", "--password-stdin", stdin="sesame\n").exit_code == 0
    assert tideline("passwd", file, "bob", "--password-stdin", stdin="grüße 🌊\n").exit_code == 0
    assert await lets_in(file, "alice", "sesame") is True
    assert await lets_in(file, "bob", "grüße 🌊") is True
    assert await lets_in(file, "alice", "Sesame") is False
    assert file.stat().st_mode & 0o777 == 0o600
    assert "sesame" not in file.read_text()


async def test_passwords_change_and_users_go(tmp_path: Path) -> None:
    file = tmp_path / "passwords.txt"
    file.write_text("# people\n")
    file.chmod(0o640)
    for password in ("one", "two"):
        assert tideline("passwd", file, "alice", stdin=f"{password}\n{password}\n").exit_code == 0
    tideline("passwd", file, "bob", "--password-stdin", stdin="x\n")
    assert await lets_in(file, "alice", "one") is False
    assert await lets_in(file, "alice", "two") is True
    assert tideline("passwd", file).output == "alice\nbob\n"
    assert tideline("passwd", file, "alice", "--delete").exit_code == 0
    assert tideline("passwd", file).output == "bob\n"
    assert file.read_text().startswith("# people\n")
    assert file.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["passwords.txt"]


def test_a_generated_password_is_shown_once_and_lets_in(tmp_path: Path) -> None:
    file = tmp_path / "passwords.txt"
    shown = tideline("passwd", file, "meter-7", "--generate")
    password = shown.stdout.strip()
    assert len(password) == 43  # 256 bits
    assert password not in file.read_text()
    found = Passwords(read(file))
    assert found.verify("meter-7", password)
    for user, wrong in (("meter-7", ""), ("meter-7", password[1:]), ("meter-8", password), ("", "")):
        assert not found.verify(user, wrong)
    assert tideline("passwd", file, "meter-7", "--generate").stdout.strip() != password
    scram = tideline("passwd", tmp_path / "scram.txt", "meter-7", "--generate", "--scram").stdout.strip()
    assert Credential.parse((tmp_path / "scram.txt").read_text().strip().partition(":")[2]).matches(scram)


def test_scram_credentials(tmp_path: Path) -> None:
    file = tmp_path / "scram.txt"
    for password in ("one", "two"):
        assert tideline("passwd", file, "alice", "--scram", "--password-stdin", stdin=f"{password}\n").exit_code == 0
    name, _, text = file.read_text().strip().partition(":")
    credential = Credential.parse(text)
    assert (name, credential.matches("one"), credential.matches("two")) == ("alice", False, True)
    assert tideline("passwd", file).output == "alice\n"
    assert file.stat().st_mode & 0o777 == 0o600
    refused = tideline("passwd", file, "bob", "--scram", "--password-stdin", stdin="a\tb\n")
    assert (refused.exit_code, "no keyboard has" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("stdin", "problem"),
    [
        (io.StringIO("\n"), "must not be empty"),
        (io.StringIO("x" * 65_536), "has 65536 bytes: it must have 65535 at most, as MQTT carries no more"),
        (io.StringIO("\udcff\n"), "must be UTF-8"),
        (io.TextIOWrapper(io.BytesIO(b"\xff\n"), "utf-8"), "must be UTF-8"),
    ],
)
def test_a_password_that_no_client_can_send_is_refused(
    monkeypatch: pytest.MonkeyPatch, stdin: io.TextIOBase, problem: str
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    with pytest.raises(Failure, match=problem):
        ask_password(True)


def test_a_password_is_given_or_made(tmp_path: Path) -> None:
    refused = tideline("passwd", tmp_path / "passwords.txt", "alice", "--password-stdin", "--generate", stdin="x\n")
    assert (refused.exit_code, refused.stderr) == (2, "tideline: --generate: beside --password-stdin, one too many\n")
    assert not (tmp_path / "passwords.txt").exists()


@pytest.mark.parametrize("first", [[], ["--scram"]])
def test_each_kind_of_password_has_a_file_of_its_own(tmp_path: Path, first: list[str]) -> None:
    file = tmp_path / "passwords.txt"
    tideline("passwd", file, "alice", *first, "--password-stdin", stdin="x\n")
    before = file.read_text()
    refused = tideline("passwd", file, "bob", *([] if first else ["--scram"]), "--password-stdin", stdin="x\n")
    assert refused.exit_code == 2
    assert "a file of its own" in refused.stderr
    assert file.read_text() == before
    assert tideline("passwd", file, "alice", "--delete").exit_code == 0


@pytest.mark.parametrize(
    ("user", "password"), [("a:b", "x"), ("#a", "x"), (" a", "x"), ("a\nb", "x"), ("", "x"), ("alice", "")]
)
def test_what_the_file_cannot_hold_is_refused(tmp_path: Path, user: str, password: str) -> None:
    file = tmp_path / "passwords.txt"
    assert tideline("passwd", file, user, "--password-stdin", stdin=password + "\n").exit_code == 2
    assert not file.exists()


def test_a_password_file_that_is_not_there_is_no_empty_one(tmp_path: Path) -> None:
    shown = tideline("passwd", tmp_path / "pasword.txt")
    assert (shown.exit_code, "pasword.txt: no such file" in shown.stderr) == (1, True)
    assert not list(tmp_path.iterdir())


def test_a_user_who_is_not_there_cannot_be_removed(tmp_path: Path) -> None:
    shown = tideline("passwd", tmp_path / "none.txt", "alice", "--delete")
    assert (shown.exit_code, "no user 'alice'" in shown.stderr) == (1, True)


def test_a_log_line_cannot_command_a_terminal() -> None:
    assert printable("a\x1b[2Jb\nc\u202e") == "a\\x1b[2Jb\\nc\\u202e"
    assert printable("grüße 会议") == "grüße 会议"


def test_a_shell_is_offered_what_fits() -> None:
    def offered(*words: str) -> list[str]:
        shell = ShellComplete(main, {}, "tideline", "_TIDELINE_COMPLETE")
        return [one.value for one in shell.get_completions(list(words[:-1]), words[-1])]

    assert offered("back") == ["backup"]
    assert offered("backup", "--co") == ["--config"]
    assert offered("acl", "check", "bob", "pub") == ["publish"]
    assert offered("log", "level", "in") == ["info", "inherit"]
    assert offered("import", "mosq") == ["mosquitto"]
    assert offered("import", "mosquitto", "--o") == ["--out"]
