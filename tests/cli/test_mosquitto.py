"""`tideline import mosquitto`: what becomes of each option, and a broker that runs on what was written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from broker.cli.mosquitto_options import OPTIONS
from broker.config import load, settings_problems
from broker.packets.codes import ReasonCode
from broker.server import Server
from tests.access.test_live import publishes
from tests.access.test_mosquitto_files import PASSWORDS
from tests.cli.test_commands import tideline
from tests.support.broker import Broker

MAN_PAGE = """
acl_file address addresses allow_anonymous allow_duplicate_messages allow_zero_length_clientid auth_plugin_deny_special_chars
auto_id_prefix autosave_interval autosave_on_changes bind_address bind_interface bridge_alpn bridge_attempt_unsubscribe
bridge_bind_address bridge_cafile bridge_capath bridge_certfile bridge_identity bridge_insecure bridge_keyfile
bridge_max_packet_size bridge_outgoing_retain bridge_protocol_version bridge_psk bridge_require_ocsp bridge_tls_version cafile
capath certfile check_retain_source ciphers ciphers_tls1.3 cleansession clientid_prefixes connection connection_messages crlfile
dhparamfile http_dir idle_timeout include_dir keepalive_interval keyfile listener local_cleansession local_clientid
local_password local_username log_dest log_facility log_timestamp log_timestamp_format log_type max_connections
max_inflight_bytes max_inflight_messages max_keepalive max_packet_size max_qos max_queued_bytes max_queued_messages
max_topic_alias memory_limit message_size_limit mount_point notification_topic notifications notifications_local_only
password_file per_listener_settings persistence persistence_file persistence_location persistent_client_expiration pid_file
plugin port protocol psk_file psk_hint queue_qos0_messages remote_clientid remote_password remote_username require_certificate
restart_timeout retain_available retain_expiry_interval round_robin set_tcp_nodelay socket_domain start_type sys_interval
threshold tls_engine tls_engine_kpass_sha1 tls_keyform tls_version topic try_private upgrade_outgoing_qos
use_identity_as_username use_subject_as_username use_username_as_clientid user websockets_headers_size websockets_log_level
"""


def test_every_option_of_the_man_page_is_known() -> None:
    assert set(MAN_PAGE.split()) - set(OPTIONS) == set()


def imported(folder: Path, text: str) -> tuple[dict[str, object], list[str]]:
    """What was written, and what was said of lines."""
    conf = folder / "mosquitto.conf"
    conf.write_text(text)
    shown = tideline("import", "mosquitto", conf)
    assert shown.exit_code == 0, shown.output
    told = [line.replace(f"{conf}, ", "") for line in shown.stderr.splitlines()]
    smaller = [line for line in told if line.startswith("look at: max_packet_size: ")]
    assert len(smaller) == ("mqtt:\n  max_packet_size" not in shown.stdout), "it is told where nothing was said of it"
    told = [line for line in told if line not in smaller]
    written = folder / "written.yaml"
    written.write_text(shown.stdout)
    load(written, {})  # nothing in it is wrong
    return yaml.safe_load(shown.stdout), told


HERE = "listener 1883 127.0.0.1\nallow_anonymous true\npersistence true\n"


@pytest.mark.parametrize(
    ("lines", "path", "value"),
    [
        ("max_inflight_messages 0", "mqtt.inflight_window", 65535),
        ("max_inflight_messages 20", "mqtt.inflight_window", 20),
        ("max_keepalive 90", "mqtt.max_keep_alive", 90),
        ("max_packet_size 5000", "mqtt.max_packet_size", 5000),
        ("max_packet_size 0", "mqtt.max_packet_size", 268435460),
        ("max_topic_alias 5", "mqtt.topic_alias_maximum", 5),
        ("retain_available false", "mqtt.retain_available", False),
        ("persistent_client_expiration 2w", "mqtt.max_session_expiry", 1209600),
        ("sys_interval 30", "plugins.sys.interval", 30),
        ("sys_interval 0", "plugins.sys", False),
        ("log_type error\nlog_type notice", "log.level", "info"),
        ("log_type all", "log.level", "debug"),
        ("max_connections -1", "listeners.0.max_connections", 0),
        ("protocol mqtt\nmax_connections 7", "listeners.0.max_connections", 7),
        ("listener 1884 ::1", "listeners.1.bind", "[::1]:1884"),
        ("listener 1884\nsocket_domain ipv6", "listeners.1.bind", "[::]:1884"),
        ("port 1885\nbind_address localhost", "listeners.0.bind", "localhost:1885"),
        ("listener 0 /run/mosquitto.sock", "listeners.1.bind", "unix:/run/mosquitto.sock"),
        ("#comment\n\nautosave_interval 5\nset_tcp_nodelay true", "mqtt", None),
    ],
)
def test_an_option_is_carried_over(tmp_path: Path, lines: str, path: str, value: object) -> None:
    written, told = imported(tmp_path, HERE + lines + "\n")
    found: object = written
    for part in path.split("."):
        found = found[int(part)] if isinstance(found, list) else found.get(part) if isinstance(found, dict) else None
    assert found == value
    assert told == []


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("max_qos 1", "QoS 0, 1 and 2 are always there"),
        ("max_packet_size 20", "must be 128 to 268435460 here: mqtt.max_packet_size is 128"),
        ("max_packet_size lots", "must be a whole number"),
        ("plugin /usr/lib/mosquitto_dynamic_security.so", "plugins of Mosquitto do not load here"),
        ("plugin_opt_config_file /x", "plugins of Mosquitto do not load here"),
        ("max_queued_messages 500", "a device's backlog is in storage, and no message is dropped"),
        ("log_dest file /var/log/mosquitto.log", "the log goes to standard error"),
        ("listener 0", "must be a port, and maybe an address"),
        ("mount_point home/", "topics are the same on all listeners"),
        ("tls_version tlsv1.1", "TLS 1.2 is the oldest that is spoken"),
        ("allow_anonymous false", "one for all listeners here: allow_anonymous true"),
        ("topic # both", "belongs to a connection, and there is none above it"),
        ("max_packet_sise 20", "no option of Mosquitto 2.0"),
        ("include_dir /nowhere/at/all", "there is no such folder"),
    ],
)
def test_a_line_that_has_no_place_here_is_told(tmp_path: Path, line: str, why: str) -> None:
    _, told = imported(tmp_path, f"{HERE}{line}\n")
    assert len(told) == 1
    assert told[0].startswith(f"not carried over: line 4: {line}: {why}")


def test_a_bridge_is_carried_over(tmp_path: Path) -> None:
    """And what of it has no place is told, without its password."""
    lines = """connection my site
address up.example other.example:1884
remote_clientid edge
remote_username edge
remote_password s3same
bridge_psk s3same
bridge_cafile ca.pem
bridge_protocol_version mqttv50
keepalive_interval 30
cleansession false
topic sensors/# out 1
topic commands/# in 2 "" site-7/
topic x both
topic "" out
connection empty
"""
    ca = tmp_path / "ca.pem"
    ca.touch()
    written, told = imported(tmp_path, HERE + lines.replace("ca.pem", str(ca)))
    assert settings_problems(load(tmp_path / "written.yaml", {}), "bridge") == []
    plugins = written["plugins"]
    assert isinstance(plugins, dict)
    assert plugins["bridge"] == {
        "bridges": [
            {
                "name": "my-site",
                "address": "up.example:1883",
                "protocol": 5,
                "send": [{"filter": "sensors/#"}, {"filter": "x"}],
                "receive": [{"filter": "commands/#", "remote": "site-7/"}, {"filter": "x"}],
                "client_id": "edge",
                "username": "edge",
                "password": "s3same",
                "tls": True,
                "cafile": str(ca),
                "keep_alive": 30,
            }
        ]
    }
    assert [line.partition(": ")[2] for line in told] == [
        "line 4: connection my site: is called my-site here",
        "line 5: address up.example other.example:1884: one address: up.example:1883",
        "line 9: bridge_psk ***: certificates are PEM files: bridge_cafile",
        'line 15: topic commands/# in 2 "" site-7/: goes at QoS 1, so that it may come twice',
        'line 17: topic "" out: a topic without a filter: name it whole, and no prefixes',
        "line 18: connection empty: a bridge needs an address, and topics",
    ]


def test_what_a_person_should_look_at(tmp_path: Path) -> None:
    _, told = imported(tmp_path, "listener 1883\nprotocol websockets\ncafile ca.pem\nacl_file acl\n")
    assert [line.partition(": ")[0] for line in told] == ["not carried over"] + ["look at"] * 4
    assert "is used for client certificates only" in told[0]
    (tmp_path / "acl").write_text("")
    assert "browsers must use the path /mqtt" in told[1]
    assert "IPv4 only" in told[2]
    assert "nobody can log in" in told[3]
    assert "it kept nothing on disk" in told[4]
    written, told = imported(tmp_path, "")
    assert written["listeners"] == [{"name": "mqtt", "type": "tcp", "bind": "127.0.0.1:1883"}]
    assert len(told) == 1


def test_certificates_and_the_names_in_them(tmp_path: Path) -> None:
    tls = "certfile server.pem\nkeyfile server.key\ncafile ca.pem\ncrlfile crl.pem\n"
    written, told = imported(
        tmp_path, f"persistence true\nlistener 8883 127.0.0.1\n{tls}require_certificate true\nuse_identity_as_username true\n"
    )
    assert written["listeners"] == [
        {
            "name": "mqtts-8883",
            "type": "tcp",
            "bind": "127.0.0.1:8883",
            "tls": {
                "certfile": "server.pem",
                "keyfile": "server.key",
                "crlfile": "crl.pem",
                "cafile": "ca.pem",
                "require_client_certificate": True,
            },
            "identity": "cn",
        }
    ]
    assert told == []


async def test_a_broker_runs_on_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(PASSWORDS)
    (tmp_path / "acl").write_text("user alice\ntopic write up\npattern readwrite user/%u/#\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "users.conf").write_text(f"password_file {tmp_path}/pw\nacl_file {tmp_path}/acl\n")
    conf, out = tmp_path / "mosquitto.conf", tmp_path / "config.yaml"
    conf.write_text(
        f"listener 1883 127.0.0.1\npersistence true\npersistence_location {tmp_path}/\ninclude_dir {tmp_path}/conf.d\n"
    )
    shown = tideline("import", "mosquitto", conf, "--out", out)
    assert shown.exit_code == 0, shown.output
    assert f"{out}: written" in shown.stdout
    assert tideline("import", "mosquitto", conf, "--out", out).exit_code == 2
    bound = {f"TIDELINE__{name}__BIND": "127.0.0.1:0" for name in ("LISTENERS__0", "PLUGINS__HTTP")}
    server = Server(load(out, bound))
    await server.start()
    try:
        server.addresses["tcp"] = server.addresses["mqtt-1883"]
        broker = Broker(server)
        alice = await broker.client("a", 5, username="alice", password=b"secret")
        topics = ("up", "down", "user/alice/x", "user/bob/x")
        refused = [topic for topic in topics if await publishes(alice, topic) == ReasonCode.NOT_AUTHORIZED]
        assert refused == ["down", "user/bob/x"]
        assert (await (await broker.socket()).connect("x", username="alice", password=b"wrong")).reason == 4
        assert (await (await broker.socket()).connect("x")).reason == 5
        await broker.close_clients()
    finally:
        await server.stop()
    assert (tmp_path / "tideline.db").exists()
