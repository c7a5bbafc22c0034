"""`tideline jobs`: beside a running broker, and where none runs."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from storage.factory import open_url
from storage.records import Append, Message
from tests.cli.processes import PATIENCE, ROOT, Process, command, environment, ran, serving


def configured(folder: Path, rules: list[dict[str, Any]], **persistence: str) -> None:
    plugins = {
        "persistence": {"url": "sqlite:///data/tideline.db", **persistence},
        "http": {},
        "search": {},
        "jobs": {"retention": {"rules": rules}, "share": 1.0},
        "amqtt.plugins.authentication.AnonymousAuthPlugin": {},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"plugins": plugins}))


def published(broker: Process, count: int) -> None:
    client = mqtt.Client(CallbackAPIVersion.VERSION2, "publisher")
    client.connect("127.0.0.1", broker.port())
    client.loop_start()
    for number in range(count):
        client.publish("chat/a", str(number), qos=1).wait_for_publish(PATIENCE)
    client.disconnect()
    client.loop_stop()


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    shown = ran(folder, "jobs", "--json")
    assert shown.returncode == 0, shown.stderr
    return {job["name"]: job for job in map(json.loads, shown.stdout.splitlines())}


def test_beside_a_broker_and_without_one(tmp_path: Path) -> None:
    configured(tmp_path, [{"filter": "chat/#", "max_messages": 2}])
    with serving(tmp_path) as broker:
        published(broker, 5)
        broker.line("storing ")
        assert listed(tmp_path)["retention"]["last"] is None
        assert listed(tmp_path)["retention"]["next_run"] > 0
        run = ran(tmp_path, "jobs", "run", "retention")
        assert run.returncode == 0, run.stderr
        assert run.stdout.startswith("retention: done after ")
        assert "removed 3" in run.stdout
        assert listed(tmp_path)["retention"]["last"]["outcome"] == "done"
        table = ran(tmp_path, "jobs").stdout
        assert table.splitlines()[0].split("  ")[0] == "job"
        assert "retention  1h " in table
        wrong = ran(tmp_path, "jobs", "run", "retnetion")
        assert (wrong.returncode, "did you mean 'retention'?" in wrong.stderr) == (1, True)
        idle = ran(tmp_path, "jobs", "cancel", "retention")
        assert (idle.returncode, "not running" in idle.stderr) == (1, True)
        begun = ran(tmp_path, "jobs", "run", "sessions", "--no-wait")
        assert begun.stdout == "sessions: begun\n"
    # The broker is gone, killed: its file is left, and nobody answers there.
    shown = ran(tmp_path, "jobs")
    assert "no running broker was found" in shown.stderr
    assert "retention" in shown.stdout
    configured(tmp_path, [{"filter": "chat/#", "max_messages": 0}])
    run = ran(tmp_path, "jobs", "run", "retention")
    assert (run.returncode, "removed 2" in run.stdout) == (0, True), run.stderr
    assert "Traceback" not in run.stderr
    index = ran(tmp_path, "jobs", "run", "index")
    assert "messages 0, missing 0, surplus 0" in index.stdout
    assert ran(tmp_path, "inspect", "conversations", "--json").stdout.splitlines() == [
        '{"topic": "chat/a", "first": 6, "last": 5, "kept": 0}'
    ]


def test_a_broker_that_cannot_be_asked_still_has_its_data_to_itself(tmp_path: Path) -> None:
    configured(tmp_path, [])
    with serving(tmp_path, TIDELINE__PLUGINS__HTTP__OPERATOR_FILE="elsewhere.json") as broker:
        broker.line("storing ")
        run = ran(tmp_path, "jobs", "run", "sessions")
        assert run.returncode == 3
        assert "served by another broker" in run.stderr
        assert "operator_file" in run.stderr


def test_a_broker_without_the_plugin_is_named(tmp_path: Path) -> None:
    configured(tmp_path, [])
    with serving(tmp_path, TIDELINE__PLUGINS__JOBS="false") as broker:
        broker.line("storing")
        asked = ran(tmp_path, "jobs")
        assert asked.returncode == 1
        assert "jobs is not among the plugins of the running broker at http://127.0.0.1:" in asked.stderr


async def test_an_interrupt_ends_a_run_at_its_step(tmp_path: Path) -> None:
    configured(tmp_path, [{"filter": "#", "max_messages": 0}])
    storage = open_url(f"sqlite:///{tmp_path}/data/tideline.db")
    await storage.open()
    await storage.commit([Append(Message(n, "bulk", "u/x", "d", n, 1, b"x")) for n in range(1, 8001)])
    await storage.close()
    run = await asyncio.create_subprocess_exec(
        *command("jobs", "run", "retention"),
        cwd=tmp_path,
        env=environment(PYTHONPATH=ROOT, TIDELINE__PLUGINS__JOBS__SHARE="0.01"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert run.stderr is not None
    async with asyncio.timeout(PATIENCE):
        while b"removing messages" not in await run.stderr.readline():
            pass
        run.send_signal(signal.SIGINT)
        out, _ = await run.communicate()
    assert (run.returncode, out.decode().startswith("retention: cancelled after ")) == (1, True)
    storage = open_url(f"sqlite:///{tmp_path}/data/tideline.db", read_only=True)
    await storage.open()
    first, last = await storage.conversation_bounds("bulk")
    assert 1 < first < last == 8000
    assert [m.seq for m in await storage.read_conversation("bulk", limit=8000)] == list(range(first, last + 1))
    await storage.close()
    assert listed(tmp_path)["retention"]["last"]["outcome"] == "cancelled"


def test_memory_has_no_jobs_without_its_broker(tmp_path: Path) -> None:
    configured(tmp_path, [], url="memory://")
    for arguments in (("jobs",), ("jobs", "run", "sessions")):
        told = ran(tmp_path, *arguments)
        assert (told.returncode, "memory:// keeps nothing" in told.stderr) == (3, True)
