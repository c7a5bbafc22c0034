"""`$delayed/<seconds>/<topic>`: what is published there is published to the topic, so many seconds later. No I/O."""

from __future__ import annotations

import re
from typing import NamedTuple

from broker.access import DELAYED, PUBLISH
from broker.hooks import Refusal
from broker.packets import ProtocolViolation, ReasonCode, reserved, shown, validate_name

_SECONDS = re.compile(r"\d{1,10}(\.\d{1,3})?", re.ASCII)


class Delayed(NamedTuple):
    """How long to wait (ms), and where to publish then."""

    delay: int
    topic: str


def parse(topic: str) -> Delayed:
    """Raises `Refusal`, with what would be right."""
    seconds, slash, real = topic.removeprefix(DELAYED).partition("/")
    if not slash or not _SECONDS.fullmatch(seconds):
        raise Refusal(
            f"topic {shown(topic)}: must be {DELAYED}<seconds>/<topic>, such as {DELAYED}60/home/lamp",
            ReasonCode.TOPIC_NAME_INVALID,
        )
    check_target(real)
    return Delayed(round(float(seconds) * 1000), real)


def check_target(topic: str) -> None:
    """Raise `Refusal` where nobody may publish to a topic later."""
    try:
        validate_name(topic)
    except ProtocolViolation as violation:
        raise Refusal(violation.text, ReasonCode.TOPIC_NAME_INVALID) from None
    if reserved(topic) or topic.startswith(DELAYED):
        raise Refusal(f"topic {shown(topic)} cannot be published to later", ReasonCode.NOT_AUTHORIZED)


def access(action: str, topic: str) -> str | bool:
    """What access is asked about: the real topic. What is no such topic is refused later, with what would be right; nobody
    subscribes to what waits."""
    if action != PUBLISH:
        return False
    try:
        return parse(topic).topic
    except Refusal:
        return True
