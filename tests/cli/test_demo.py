"""`tideline demo` works, and would say so if it did not."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.cli.demo_parts import Peer, Story, free_port
from tests.cli.processes import command, environment

PUBLISH, PUBREL = 3, 6


def test_the_demo_shows_what_it_promises(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    done = subprocess.run(
        command("demo", "--keep", str(kept)), env=environment(), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n  yes  ") == 3
    assert "killed: " in done.stdout
    assert (kept / "data" / "tideline.db").exists()


@pytest.mark.parametrize(
    "got",
    [["message 1", "message 3"], ["message 1", "message 2", "message 2", "message 3"], ["message 1", "message 3", "message 2"]],
    ids=["lost", "twice", "disordered"],
)
def test_the_demos_verdict_can_be_no(tmp_path: Path, got: list[str]) -> None:
    said: list[str] = []
    story = Story(tmp_path, said.append, 0)
    story.sent = ["message 1", "message 2", "message 3"]
    story.phone.received = list(story.sent)
    story.laptop.received = got
    story.before_leaving = 1
    assert story.verdict() is False
    assert any(line.startswith("  NO ") for line in said)


def test_a_message_that_was_released_is_not_published_again_after_a_start_that_took_its_time() -> None:
    """The demo's client finds nobody where the broker was, twice, before it is back."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as listener:
        peer = Peer("bobs-phone", "bob", "secret", port, threading.Condition())
        in_vain = threading.Semaphore(0)
        peer.client.on_connect_fail = lambda *_: in_vain.release()
        peer.client.reconnect_delay_set(0.01, 0.01)  # type: ignore[arg-type]  # seconds; nothing in paho needs them whole
        peer.start()
        with accepted(listener, b"\x20\x02\x00\x00") as stream:  # CONNACK
            peer.client.publish("chat/family", "once", qos=2)
            kind, body = packet(stream)
            assert kind == PUBLISH
            stream.sendall(b"\x50\x02" + body[len("chat/family") + 2 :][:2])  # PUBREC
            assert packet(stream)[0] == PUBREL
            listener.close()
    for _ in range(2):
        assert in_vain.acquire(timeout=20)
    with socket.create_server(("127.0.0.1", port)) as listener, accepted(listener, b"\x20\x02\x01\x00") as stream:
        assert packet(stream)[0] == PUBREL
    peer.stop()


@contextmanager
def accepted(listener: socket.socket, connack: bytes) -> Iterator[socket.socket]:
    listener.settimeout(20)
    stream, _ = listener.accept()
    with stream:
        stream.settimeout(20)
        packet(stream)
        stream.sendall(connack)
        yield stream


def packet(stream: socket.socket) -> tuple[int, bytes]:
    """Type and body of a packet with less than 128 bytes."""
    first, length = (stream.recv(1, socket.MSG_WAITALL)[0] for _ in range(2))
    return first >> 4, stream.recv(length, socket.MSG_WAITALL) if length else b""


def test_a_folder_in_use_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    done = subprocess.run(
        command("demo", "--keep", str(tmp_path)), env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "must be new or empty" in done.stderr


def test_make_demo_installs_its_client_and_no_test_tools(tmp_path: Path) -> None:
    """What `make` would do on a fresh clone."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        ["make", "--dry-run", f"VENV={tmp_path}/venv", "demo"], cwd=root, capture_output=True, text=True, check=True
    )
    installs = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert any("paho-mqtt" in line for line in installs)
    assert not any("-r requirements/test.txt" in line for line in installs)
