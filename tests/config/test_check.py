"""What `tideline check` warns of, and which plugins it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.access.password_file import hashed
from broker.config.check import certificate_problems, plugin_problems, warnings
from broker.config.settings import Settings, load
from tests.support.certificates import Certificates

ANONYMOUS = "amqtt.plugins.authentication.AnonymousAuthPlugin"
FILE = "amqtt.plugins.authentication.FileAuthPlugin"
PASSWORDS = {"TIDELINE__PLUGINS": f"{{persistence: , {FILE}: {{password_file: /dev/null}}}}"}


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_the_defaults_have_neither() -> None:
    assert plugin_problems(Settings()) == []
    assert warnings(Settings()) == []


def test_anonymous_and_plain_listeners_for_others_are_warned_of() -> None:
    elsewhere = {"TIDELINE__LISTENERS__0__BIND": "0.0.0.0:1883"}
    first, second = warnings(load(None, elsewhere))
    assert first.startswith(
        "listener mqtt: 0.0.0.0:1883 can be reached from other machines: anonymous clients are refused there"
    )
    assert "without TLS" in second
    first, second = warnings(load(None, {**elsewhere, "TIDELINE__LISTENERS__0__ANONYMOUS": "true"}))
    assert first.startswith("listener mqtt: 0.0.0.0:1883 can be reached from other machines, and anonymous clients")
    assert len(warnings(load(None, {**elsewhere, "TIDELINE__LISTENERS__0__ANONYMOUS": "false"}))) == 1


def test_passwords_leave_the_warning_about_plain_text() -> None:
    (only,) = warnings(load(None, {"TIDELINE__LISTENERS__0__BIND": "10.0.0.1:1883", **PASSWORDS}))
    assert "without TLS" in only


def test_names_that_nobody_verifies_are_warned_of() -> None:
    without = {"TIDELINE__PLUGINS__ACCOUNTS": "false"}
    (only,) = warnings(load(None, {**without, "TIDELINE__PLUGINS__ANONYMOUSAUTHPLUGIN__ALLOW_ANONYMOUS": "false"}))
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
        ("sqlite:///.", "names no file: sqlite:///data/tideline.db"),
        ("mongodb://u:sesame@host", "names no database"),
    ],
)
def test_a_storage_that_cannot_be_is_refused_without_telling_its_password(url: str, told: str) -> None:
    (problem,) = plugin_problems(load(None, {"TIDELINE__PLUGINS__PERSISTENCE__URL": url}))
    assert told in problem
    assert "sesame" not in problem


def test_certificates_that_are_not_there_are_problems(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("x")
    tls = {"TIDELINE__LISTENERS__0__TLS": f"{{certfile: '{tmp_path}/cert.pem', keyfile: '{tmp_path}/key.pem'}}"}
    found = load(None, tls)
    assert certificate_problems(found) == [f"listener mqtt: tls.keyfile {tmp_path}/key.pem: no such file or directory"]
    assert warnings(found) == []


def test_files_of_plugins_that_are_not_there_are_problems(tmp_path: Path) -> None:
    plugins = f"{{http: {{certfile: {tmp_path}/cert.pem}}, {FILE}: {{password_file: '{tmp_path}/pw'}}}}"
    (problem,) = plugin_problems(load(None, {"TIDELINE__PLUGINS": plugins}))
    assert (
        problem
        == f"plugins.{FILE}.password_file (environment TIDELINE__PLUGINS): cannot read {tmp_path}/pw: No such file or directory"
    )
    (tmp_path / "pw").touch()
    found = load(None, {"TIDELINE__PLUGINS": plugins})
    assert (plugin_problems(found), warnings(found)) == ([], [])
    assert certificate_problems(found) == [f"plugins.http: certfile {tmp_path}/cert.pem: no such file or directory"]
    (tmp_path / "cert.pem").touch()
    assert warnings(found) == []
    assert "not a PEM certificate" in certificate_problems(found)[0]


@pytest.mark.parametrize("where", ["listener", "http"])
def test_a_certificate_that_does_not_fit_its_key_is_a_problem(certificates: Certificates, where: str) -> None:
    files = f"{{certfile: '{certificates.server}', keyfile: '{certificates.device_key}'}}"
    variable = "TIDELINE__LISTENERS__0__TLS" if where == "listener" else "TIDELINE__PLUGINS__HTTP"
    (problem,) = certificate_problems(load(None, {variable: files}))
    named = f"certfile {certificates.server} with key {certificates.device_key}"
    assert problem.endswith(f"{named}: the key does not belong to the certificate")
    right = files.replace("device.key", "server.key")
    assert certificate_problems(load(None, {variable: right})) == []


ARGON2 = hashed("wonderland")


@pytest.mark.parametrize("plugin", [FILE, "passwords"])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sesame", "line 1: must be <user>:<hash>"),
        ("# people\n\nbob:sesame", "line 3: the hash of user 'bob' has no form that is known; it must be Argon2"),
        ("bob:$2b$12$sesame", "line 1: the hash of user 'bob' is bcrypt"),
        ("bob:$7$101$sesame$sesame==", "line 1: the hash of user 'bob' is"),
        ("bob:SCRAM-SHA-256$sesame", "line 1: the hash of user 'bob' is a SCRAM credential: name the file under plugins.scram"),
        (f"alice:{ARGON2}\nbob:{ARGON2[:-9]}!sesame", "line 2: the Argon2 hash of user 'bob' is cut off or damaged"),
        ("bob:$sha256$sesame", "line 1: the hash of user 'bob' is"),
    ],
)
def test_a_password_file_of_another_kind_is_refused_at_the_start(tmp_path: Path, plugin: str, text: str, problem: str) -> None:
    """By file and line, and without a word of what stands there."""
    path = tmp_path / "pw"
    path.write_text(text)
    option = "file" if plugin == "passwords" else "password_file"
    (told,) = plugin_problems(load(None, {"TIDELINE__PLUGINS": f"{{{plugin}: {{{option}: '{path}'}}}}"}))
    assert problem in told
    assert str(path) in told
    assert "sesame" not in told


def test_what_amqtt_reads_it_goes_on_reading(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(f"# people\n\nalice:{ARGON2}\nalice:{ARGON2}\n")
    assert plugin_problems(load(None, {"TIDELINE__PLUGINS": f"{{{FILE}: {{password_file: '{tmp_path}/pw'}}}}"})) == []


@pytest.mark.parametrize(
    ("plugins", "warned"),
    [
        ("{ANONYMOUS: {}, FILE: {password_file: PW}}", "beside FileAuthPlugin, AnonymousAuthPlugin lets in whoever sends no"),
        ("{ANONYMOUS: {allow_anonymous: false}, FILE: {password_file: PW}}", ""),
        ("{ANONYMOUS: {}, passwords: {file: PW}}", "beside PasswordsPlugin, AnonymousAuthPlugin lets nobody in"),
        ("{ANONYMOUS: {}, scram: {file: PW}}", "beside ScramPlugin, AnonymousAuthPlugin lets nobody in"),
        ("{ANONYMOUS: {}, scram: {file: PW, anonymous: true}}", ""),
        ("{ANONYMOUS: {}, scram: {file: PW, anonymous: 'yes'}}", ""),
        ("{scram: {file: PW}}", ""),
        ("{passwords: {file: PW}}", ""),
    ],
)
def test_anonymous_beside_passwords_is_warned_of(tmp_path: Path, plugins: str, warned: str) -> None:
    (tmp_path / "pw").touch()
    text = plugins.replace("ANONYMOUS", ANONYMOUS).replace("FILE", FILE).replace("PW", f"'{tmp_path}/pw'")
    found = [line for line in warnings(load(None, {"TIDELINE__PLUGINS": text})) if "beside" in line]
    assert [warned in line for line in found] == [True] * bool(warned)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("{acl: [a]}", "must be a mapping of text to a list of text, not a list"),
        ("{acl: 'a'}", "'a' must be a mapping of text to a list of text"),
        ("{acl: }", "must be a mapping of text to a list of text, not empty"),
    ],
)
def test_the_kinds_of_values_have_plain_names(options: str, problem: str) -> None:
    acl = "amqtt.plugins.topic_checking.TopicAccessControlListPlugin"
    (told,) = plugin_problems(load(None, {"TIDELINE__PLUGINS": f"{{{acl}: {options}}}"}))
    assert told == f"plugins.{acl}.acl (environment TIDELINE__PLUGINS): {problem}"


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
        ("{no.such.Plugin: {}}", "plugins.no.such.Plugin (environment TIDELINE__PLUGINS): cannot be imported"),
        ("{pathlib.Path: {}}", "plugins.pathlib.Path (environment TIDELINE__PLUGINS): is not an amqtt plugin"),
        (
            "{persistence: {ulr: x}}",
            "persistence.ulr (environment TIDELINE__PLUGINS): unknown setting, did you mean 'url'?",
        ),
        ("{persistence: {url: [1]}}", "plugins.persistence.url (environment TIDELINE__PLUGINS): must be text, not a list"),
        (
            "{sys: {interval: .nan}}",
            "plugins.sys.interval (environment TIDELINE__PLUGINS): nan must be a finite number of at most",
        ),
        ("{sys: {interval: .inf}}", "inf must be a finite number of at most 1125899906842624"),
        ("{http: {max_waiting: 9999999999999999}}", "9999999999999999 must be a finite number of at most 1125899906842624"),
        ("{sync: {start: sometimes}}", "plugins.sync.start (environment TIDELINE__PLUGINS): 'sometimes' must be latest"),
    ],
)
def test_plugins_that_cannot_be_loaded_are_errors(plugins: str, expected: str) -> None:
    (problem,) = plugin_problems(load(None, {"TIDELINE__PLUGINS": plugins}))
    assert expected in problem


def test_all_that_is_wrong_with_plugins_is_told_with_its_line_and_value(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("""\
persistence:
  urll: sqlite:///a.db
  policies:
    - {filter: a/#, mode: sync}
    - {filter: b/#, mode: keep}
    - {filter: c/#/d, mode: none}
    - {filter: d/#, fanout: both}
    - {filter: e/#, mode: store, fanout: read}
sync:
  start: soon
plugins:
  sys: {interval: often}
  http:
    bind: nowhere
    max_waiting: [1]
  search:
    engine: elastic
    key: [open-sesame]
  mine:
    class: amqtt.plugins.topic_checking.TopicAccessControlListPlugin
    acl: [alice]
""")
    acl = "must be a mapping of text to a list of text, not a list"
    bind = "must be host:port with a port of 0 to 65535, such as 127.0.0.1:1883 or [::1]:1883"
    assert plugin_problems(load(path, {})) == [
        "persistence.urll (line 2): unknown setting, did you mean 'url'?",
        "persistence.policies[1].mode (line 5): 'keep' must be sync, store or none",
        "persistence.policies[2] (line 6): topic filter 'c/#/d': '#' must be the whole last level",
        "persistence.policies[3].fanout (line 7): 'both' must be write or read",
        "persistence.policies[4].mode (line 8): 'store' of 'e/#' makes no inbox entries, so fanout 'read' must be left out",
        "sync.start (line 10): 'soon' must be latest, earliest, last:<n> or since:<duration>, such as last:100 or since:24h",
        "plugins.sys.interval (line 12): 'often' must be a number",
        "plugins.http.max_waiting (line 15): must be a whole number, not a list",
        f"plugins.http.bind (line 14): 'nowhere' {bind}",
        "plugins.search.key (line 18): must be text, not a list",
        "plugins.search.engine (line 17): 'elastic' must be embedded, tantivy or meilisearch",
        f"plugins.mine.acl (line 21): {acl}",
    ]


def test_faults_of_one_section_hide_no_others_in_it(tmp_path: Path) -> None:
    """Also where what is wrong is a setting that it must have, and deep inside."""
    path = tmp_path / "config.yaml"
    path.write_text("""\
plugins:
  http:
    storage_timeout: 0
    max_wait: -1
    keyfile: k
  acl:
    rules:
      - {allow: publsh, topics: "a#", users: ""}
      - {allow: read, deny: red, user: b}
  jobs:
    retention:
      rules:
        - {filter: "a#", max_age: x, keep: 1}
      keep_free: 3z
  webhooks:
    hooks:
      - name: a b
        url: ftp://x
        secrets: [whsec_AAAA, x]
        events: [seen]
        batch: 0
        give_up_after: soon
  bridge:
    bridges:
      - {name: a b, address: x, send: [{filter: "#", local: +}], start: now}
  jwt:
    algorithms: [none]
    token_in: header
    leeway: -1
""")
    found = [line.removeprefix("plugins.") for line in plugin_problems(load(path, {}))]
    assert [line.partition(" (")[0] for line in found] == [
        *("http.storage_timeout", "http.max_wait", "http.keyfile"),
        *("acl.rules[0].allow", "acl.rules[0].topics", "acl.rules[0].users"),
        *("acl.rules[1].user", "acl.rules[1]", "acl.rules[1].topics", "acl.rules[1].deny"),
        *("jobs.retention.rules[0].keep", "jobs.retention.rules[0].filter", "jobs.retention.rules[0].max_age"),
        "jobs.retention.keep_free",
        *(f"webhooks.hooks[0].{name}" for name in ("name", "url", "secrets", "secrets", "events", "batch", "give_up_after")),
        *("bridge.bridges[0].send[0].local", "bridge.bridges[0].send[0].filter"),
        *(f"bridge.bridges[0].{name}" for name in ("name", "address", "start")),
        *("jwt.algorithms", "jwt", "jwt.leeway", "jwt.token_in"),
    ]


def test_what_a_plugin_says_of_its_values_is_told_at_their_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("plugins:\n  http:\n    max_wait: 5\n    bind: nowhere\n  search:\n    path: x\n    engine: elastic\n")
    bind, engine = plugin_problems(load(path, {}))
    assert bind.startswith("plugins.http.bind (line 4): 'nowhere' must be host:port")
    assert engine == "plugins.search.engine (line 7): 'elastic' must be embedded, tantivy or meilisearch"


def test_a_secret_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("plugins:\n  search: {key: 4711}\n  amqtt.contrib.jwt.UserAuthJwtPlugin: {secret_key: 4711}\n")
    for problem in plugin_problems(load(path, {})):
        assert "4711" not in problem
        assert "must be" in problem or "missing" in problem
