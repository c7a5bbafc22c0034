"""The demo's broker process, its three paho-mqtt clients, and the steps of its story.

QoS 2 on both legs, where "exactly once" is the promise: a message that the laptop gets twice, late or never fails the demo.
"""

from __future__ import annotations

import random
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import yaml
from paho.mqtt.enums import CallbackAPIVersion, MessageState

from broker.access import hashed
from broker.cli.passwd import write
from broker.own_process import own_command, own_environment

TOPIC = "chat/family"
PATIENCE = 60.0  # seconds until a step counts as failed


class Client(mqtt.Client):
    """paho's client without a fault of 2.1 and 2.2: where it reconnects in vain once, it then sends PUBLISH again where it had
    sent PUBREL [MQTT-4.3.3-6]. The broker, which has forgotten that identifier, must take it for a new message."""

    def _messages_reconnect_reset_out(self) -> None:
        released = [m for m in self._out_messages.values() if m.state == MessageState.MQTT_MS_RESEND_PUBREL]
        super()._messages_reconnect_reset_out()
        for message in released:
            message.state = MessageState.MQTT_MS_RESEND_PUBREL


class Peer:
    """One paho-mqtt client with a durable session; what it was delivered, in order."""

    def __init__(self, client_id: str, user: str, password: str, port: int, changed: threading.Condition) -> None:
        self.received: list[str] = []
        self.done: set[int] = set()
        self.connected = False
        self.subscribed = False
        self._changed = changed
        self._port = port
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False)
        self.client.username_pw_set(user, password)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_publish = self._on_publish
        self.client.on_message = self._on_message

    def start(self) -> None:
        self.client.connect("127.0.0.1", self._port, keepalive=30)
        self.client.loop_start()

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_connect(self, *args: Any) -> None:
        with self._changed:
            self.connected = True
            self._changed.notify_all()

    def _on_disconnect(self, *args: Any) -> None:
        with self._changed:
            self.connected = False
            self._changed.notify_all()

    def _on_subscribe(self, *args: Any) -> None:
        with self._changed:
            self.subscribed = True
            self._changed.notify_all()

    def _on_publish(self, client: Any, userdata: Any, mid: int, *args: Any) -> None:
        with self._changed:
            self.done.add(mid)
            self._changed.notify_all()

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self.received.append(message.payload.decode())
            self._changed.notify_all()


class Story:
    """The steps, in the order in which `broker.cli.demo` tells them. A step that takes too long raises TimeoutError."""

    def __init__(self, folder: Path, say: Callable[[str], None], pace: float) -> None:
        self._folder = folder
        self._say = say
        self._pace = pace
        self._changed = threading.Condition()
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "broker.log"
        password = secrets.token_urlsafe(12)
        self._config = write_config(folder, self._port, password)
        self.bob = Peer("bobs-phone", "bob", password, self._port, self._changed)
        self.phone = Peer("phone", "ada", password, self._port, self._changed)
        self.laptop = Peer("laptop", "ada", password, self._port, self._changed)
        self.sent: list[str] = []
        self.before_leaving = 0

    # --- the broker ------------------------------------------------------------------------------------------------

    def start_broker(self, why: str) -> None:
        self._step(why)
        command = own_command("broker.cli", "serve", "--config", str(self._config))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=bare_environment())
        deadline = time.monotonic() + PATIENCE
        while not accepts(self._port):
            if self._process.poll() is not None:
                raise TimeoutError(f"the broker ended with exit code {self._process.returncode}")
            if time.monotonic() > deadline:
                raise TimeoutError("the broker does not listen")
            time.sleep(0.02)
        self._say(f"    broker process {self._process.pid}, mqtt://127.0.0.1:{self._port}")

    def kill_broker(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        """Stop what still runs."""
        for peer in (self.bob, self.phone, self.laptop):
            peer.stop()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill_broker()

    def log_tail(self) -> str:
        """The last lines that the broker wrote."""
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(lines[-5:]) or "(empty)"

    # --- the clients -----------------------------------------------------------------------------------------------

    def connect_all(self) -> None:
        self._step("Ada's phone and Ada's laptop connect: one user, two devices, one inbox. Both subscribe to chat/#.")
        for peer in (self.phone, self.laptop):
            peer.start()
        self.bob.start()
        self._wait(lambda: self.phone.connected and self.laptop.connected and self.bob.connected, "connecting")
        for peer in (self.phone, self.laptop):
            peer.client.subscribe("chat/#", qos=2)
        self._wait(lambda: self.phone.subscribed and self.laptop.subscribed, "subscribing")

    def send(self, count: int, why: str) -> None:
        self._step(why)
        for _ in range(count):
            self._publish()
        self.all_sent()

    def laptop_leaves(self) -> None:
        self._step("The laptop's lid is closed: it is offline from now on.")
        self.laptop.stop()
        self.before_leaving = len(self.laptop.received)

    def send_and_kill(self, count: int) -> None:
        self._step(f"Bob sends {count} more as fast as he can, and in the midst of it the broker is killed with SIGKILL.")
        already = len(self.bob.done)
        for _ in range(count):
            self._publish()
        self._wait(lambda: len(self.bob.done) - already >= count // 4, "the broker acknowledging Bob")
        self.kill_broker()
        acknowledged = len(self.bob.done) - already
        self._say(f"    killed: {acknowledged} of them were acknowledged, {count - acknowledged} were not")

    def all_sent(self) -> None:
        """Bob's client resends by itself what was not acknowledged."""
        self._wait(lambda: len(self.bob.done) == len(self.sent), "Bob's messages being acknowledged")

    def both_have_all(self) -> None:
        self.phone_has_all()
        self._wait(lambda: len(self.laptop.received) >= len(self.sent), "the laptop getting every message")
        self._say(f"    laptop has {len(self.laptop.received)} of {len(self.sent)} messages")

    def phone_has_all(self) -> None:
        self._wait(lambda: len(self.phone.received) >= len(self.sent), "the phone getting every message")
        self._say(f"    phone has {len(self.phone.received)} of {len(self.sent)} messages")

    def show_devices(self) -> None:
        """What `tideline inspect` reads from the data beside the running broker."""
        self._step("tideline inspect devices: each device has its own offset in its user's inbox, and so a lag.")
        data = str(self._folder / "data")
        command = own_command("broker.cli", "inspect", "devices", "--data", data, "--user", "ada")
        shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=bare_environment())
        for line in (shown.stdout or shown.stderr).splitlines():
            self._say(f"    {line}")

    def laptop_returns(self) -> None:
        self._step(f"The laptop comes back. It read up to message {self.before_leaving}; the broker goes on from there.")
        self.laptop.start()
        self._wait(lambda: len(self.laptop.received) >= len(self.sent), "the laptop getting what it missed")

    def verdict(self) -> bool:
        """Whether both devices got every message once and in order; says so."""
        missed = self.laptop.received[self.before_leaving :]
        expected = self.sent[self.before_leaving :]
        self._say(f"    laptop got {len(missed)} messages: {missed[0]!r} … {missed[-1]!r}")
        good = missed == expected and self.phone.received == self.sent
        self._step("What to look at:")
        self._line(missed == expected, f"the laptop missed {len(expected)} messages and got exactly those, in order, each once")
        self._line(
            self.phone.received == self.sent, f"the phone, connected all along, got all {len(self.sent)} in order, each once"
        )
        self._line(len(self.bob.done) == len(self.sent), "every message that Bob sent was acknowledged once it was on disk")
        return good

    # --- small things ----------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        text = f"message {len(self.sent) + 1}"
        self.sent.append(text)
        self.bob.client.publish(TOPIC, text, qos=2)

    def _line(self, good: bool, text: str) -> None:
        self._say(f"  {'yes' if good else 'NO '}  {text}")

    def _step(self, text: str) -> None:
        time.sleep(self._pace)
        self._say(f"\n> {text}")

    def _wait(self, true: Callable[[], bool], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(true, PATIENCE):
                raise TimeoutError(f"{what} took more than {PATIENCE:g} s")


def write_config(folder: Path, port: int, password: str) -> Path:
    """The configuration and the password file of the demo's broker."""
    write(folder / "passwords.txt", [f"{user}:{hashed(password)}" for user in ("ada", "bob")])
    config = folder / "config.yaml"
    settings = {
        "listeners": [{"name": "mqtt", "bind": f"127.0.0.1:{port}"}],
        "plugins": {
            "persistence": {"url": f"sqlite:///{folder.absolute()}/data/tideline.db"},
            "sync": {},
            "passwords": {"file": str(folder.absolute() / "passwords.txt")},
        },
    }
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    return config


def bare_environment() -> dict[str, str]:
    """The environment without settings that are meant for another broker."""
    return {name: value for name, value in own_environment().items() if not name.startswith("TIDELINE")}


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to outgoing connections.

    A port among those could be taken while its server is down, or a client that tries to reconnect could meet itself there.
    """
    dice = random.SystemRandom()
    while True:
        port = dice.randrange(12_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def accepts(port: int) -> bool:
    """Whether something listens on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
