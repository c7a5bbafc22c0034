"""Storage and inboxes are there unless the configuration says otherwise: nothing is lost by omission."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.config.check import plugin_problems
from broker.config.plugins import DEFAULT_URL
from broker.config.settings import ConfigError, Settings, load
from broker.hooks import StoragePlugin
from broker.server import Server, StartError

ANONYMOUS = "amqtt.plugins.authentication.AnonymousAuthPlugin"
DEFAULTS = {"persistence": {"url": DEFAULT_URL}, "sync": {"start": "latest"}}


def loaded(folder: Path, text: str, **environ: str) -> Settings:
    path = folder / "config.yaml"
    path.write_text(text)
    return load(path, environ)


def problems(folder: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, text, **environ)
    return caught.value.problems


def test_plugins_that_do_not_name_them_leave_storage_and_inboxes_as_they_are(tmp_path: Path) -> None:
    settings = loaded(tmp_path, f"plugins:\n  {ANONYMOUS}:\n")
    assert settings.plugins == {**DEFAULTS, ANONYMOUS: {}}
    assert (settings.storage_url, settings.keeps_nothing) == (DEFAULT_URL, False)
    assert plugin_problems(settings) == []
    assert Settings.model_validate({"plugins": {}}).plugins == DEFAULTS


def test_the_environment_cannot_leave_them_out_by_omission_either() -> None:
    assert load(None, {"TIDELINE__PLUGINS": f"{{{ANONYMOUS}: }}"}).plugins == {**DEFAULTS, ANONYMOUS: {}}


@pytest.mark.parametrize(
    "text",
    [
        "persistence: memory://",
        "persistence: {url: 'memory://'}",
        "plugins: {persistence: 'memory://'}",
        "plugins: {persistence: {url: 'memory://'}, sync: }",
        "plugins: {plugins.persistence.PersistencePlugin: {url: 'memory://'}}",
    ],
)
def test_keeping_nothing_is_said(tmp_path: Path, text: str) -> None:
    settings = loaded(tmp_path, text)
    assert settings.keeps_nothing
    assert settings.plugins["persistence"] == {"url": "memory://"}
    assert "sync" in settings.plugins
    assert plugin_problems(settings) == []


def test_both_may_stand_at_the_top(tmp_path: Path) -> None:
    text = "persistence:\n  url: sqlite:///a.db\n  policies: [{filter: a, mode: none}]\nsync: earliest\nplugins: {sys: }"
    settings = loaded(tmp_path, text)
    policies = [{"filter": "a", "mode": "none"}]
    assert settings.plugins == {
        "persistence": {"url": "sqlite:///a.db", "policies": policies},
        "sync": {"start": "earliest"},
        "sys": {},
    }
    assert list(settings.plugins) == ["persistence", "sync", "sys"]


def test_at_the_top_they_leave_the_other_plugins_as_they_are(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "persistence: sqlite:///a.db")
    assert settings.plugins == {**Settings().plugins, "persistence": {"url": "sqlite:///a.db"}}


def test_an_old_configuration_goes_on_in_its_order(tmp_path: Path) -> None:
    text = f"plugins:\n  {ANONYMOUS}:\n  persistence: {{url: 'mongodb://h/d'}}\n  sync: {{start: earliest}}\n"
    settings = loaded(tmp_path, text)
    assert list(settings.plugins) == [ANONYMOUS, "persistence", "sync"]
    assert settings.storage_url == "mongodb://h/d"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "persistence: memory://\nplugins:\n  persistence: {url: 'sqlite:///a.db'}",
            "persistence (line 1): given twice, also as plugins.persistence",
        ),
        (
            "plugins:\n  persistence:\n  plugins.persistence.PersistencePlugin:",
            "plugins.persistence (line 2): given twice, also as plugins.persistence.PersistencePlugin",
        ),
        ("persistance: memory://", "persistance (line 1): unknown, did you mean 'persistence'?"),
        ("persistence: 5", "persistence (line 1): 5 must be a mapping"),
        ("persistence: [a]", "persistence (line 1): a list must be a mapping"),
        ("search: {engine: embedded}", "search (line 1): unknown here, it belongs under plugins"),
        ("inflight_window: 5", "inflight_window (line 1): unknown here, it belongs under mqtt"),
        ("mqtt: {publish_rate: 5}", "mqtt.publish_rate (line 1): unknown here, it belongs under limits"),
        ("mqtt: {inflight_windw: 5}", "mqtt.inflight_windw (line 1): unknown, did you mean 'inflight_window'?"),
        (
            "listeners:\n  - {name: a, bind: '127.0.0.1:1', keyfile: a.pem}",
            "listeners[0].keyfile (line 2): unknown here, it belongs under tls",
        ),
        ("plugins: {listeners: []}", "plugins.listeners (line 1): not a plugin, it belongs beside plugins"),
        ("plugins: {mqtt: {inflight_window: 5}}", "plugins.mqtt (line 1): not a plugin, it belongs beside plugins"),
    ],
)
def test_what_is_wrong_with_them_is_said_where_it_was_written(tmp_path: Path, text: str, expected: str) -> None:
    found = problems(tmp_path, text)
    assert any(problem.startswith(expected) for problem in found), found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("plugins: {persistence: false}", "persistence: false leaves storage to another plugin, and none provides it"),
        ("persistence: false", "say persistence: memory://"),
        ("sync: false", "give persistence the policy {filter: '#', mode: store}"),
    ],
)
async def test_false_leaves_them_to_a_plugin_that_takes_their_place(tmp_path: Path, text: str, told: str) -> None:
    settings = loaded(tmp_path, text, TIDELINE__LISTENERS__0__BIND="127.0.0.1:0")
    (problem,) = plugin_problems(settings)
    assert told in problem
    with pytest.raises(StartError) as caught:
        await Server(settings).start()
    assert str(caught.value) == problem


def test_another_makers_storage_takes_their_place(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "persistence: false\nplugins: {tests.plugin_host.third_party.Second: {url: 'memory://'}}")
    assert plugin_problems(settings) == []
    assert settings.storage_url == ""


class Half(StoragePlugin):
    """A storage of another maker, from before there were tokens and jobs."""

    def storage(self) -> Any:
        class Old:
            async def open(self) -> None: ...

            async def close(self) -> None: ...

        return Old()


async def test_a_storage_that_cannot_do_everything_is_told_at_the_start() -> None:
    plugins = {"persistence": False, "tests.config.test_persistence.Half": {}}
    listeners = [{"name": "tcp", "bind": "127.0.0.1:0"}]
    with pytest.raises(StartError, match="Half: its storage lacks cluster, commit, conversation_bounds, conversations, "):
        await Server(Settings.model_validate({"listeners": listeners, "plugins": plugins})).start()


# --- from the environment alone --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variable", ["TIDELINE__PERSISTENCE", "TIDELINE__PERSISTENCE__URL", "TIDELINE__PLUGINS__PERSISTENCE__URL"]
)
@pytest.mark.parametrize(
    "text", ["", "persistence: sqlite:///a.db", "plugins: {persistence: {url: 'sqlite:///a.db'}}", "plugins: {}"]
)
def test_every_name_of_the_url_goes_before_the_file(tmp_path: Path, text: str, variable: str) -> None:
    settings = loaded(tmp_path, text, **{variable: "mongodb://h/d"})
    assert settings.storage_url == "mongodb://h/d"
    assert variable in settings.where(("plugins", "persistence", "url"))


def test_plugins_as_a_whole_do_not_undo_what_is_said_of_storage() -> None:
    settings = load(None, {"TIDELINE__PERSISTENCE": "memory://", "TIDELINE__PLUGINS": "{sys: }"})
    assert settings.keeps_nothing


def test_any_plugin_can_be_set_from_the_environment_alone() -> None:
    acl = "amqtt.plugins.topic_checking.TopicAccessControlListPlugin"
    environ = {
        "TIDELINE__PLUGINS__ANONYMOUSAUTHPLUGIN": "false",
        "TIDELINE__PLUGINS__RIGHTS__CLASS": acl,
        "TIDELINE__PLUGINS__RIGHTS__ACL": "{alice: ['home/#']}",
        "TIDELINE__PLUGINS__USERS__CLASS": "plugins.passwords.PasswordsPlugin",
        "TIDELINE__PLUGINS__USERS__FILE": "/run/secrets/passwords",
    }
    settings = load(None, environ)
    assert settings.plugins[acl] == {"acl": {"alice": ["home/#"]}}
    assert settings.plugins["passwords"] == {"file": "/run/secrets/passwords"}
    assert ANONYMOUS not in settings.plugins
    assert list(settings.plugin_classes())[-2:] == [acl, "plugins.passwords.PasswordsPlugin"]
    assert settings.where(("plugins", acl, "acl")) == "plugins.rights.acl (environment TIDELINE__PLUGINS__RIGHTS__ACL)"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TIDELINE__PLUGINS__RIGHTS__ACL": "{}"}, "plugins.rights (environment TIDELINE__PLUGINS__RIGHTS__ACL): not a plugin"),
        ({"TIDELINE__PLUGINS__RIGHTS__ACL": "{}"}, "others go by class path, or have it as their class"),
        ({"TIDELINE__PLUGINS__RIGHTS__CLASS": "Acl"}, "must be the class path of a plugin, such as "),
        (
            {"TIDELINE__PLUGINS__P__CLASS": "plugins.persistence.PersistencePlugin"},
            "plugins.persistence: given twice, also as p",
        ),
    ],
)
def test_a_plugin_of_the_environment_that_is_none_is_told(environ: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, environ)
    assert any(expected in problem for problem in caught.value.problems), caught.value.problems
