"""Topic names and topic filters (MQTT 5.0 and 3.1.1, 4.7; shared subscriptions 4.8).

- A name or filter has at least one character [MQTT-4.7.3-1], no U+0000 [MQTT-4.7.3-2] nor another control character, and at
  most 65,535 bytes [MQTT-4.7.3-3].
- ``#`` is the last level of a filter and fills it [MQTT-4.7.1-1]; ``+`` fills a whole level [MQTT-4.7.1-2]. A name has neither
  [MQTT-3.3.2-2].
- A filter that starts with a wildcard does not match a name that starts with ``$`` [MQTT-4.7.2-1].
"""

from __future__ import annotations

from broker.packets.codes import MalformedPacket, ReasonCode, TopicFilterInvalid, TopicNameInvalid
from broker.packets.wire import check_identifier, shown

SHARE = "$share/"


def _check_text(text: str, kind: str) -> None:
    check_identifier(text, kind)
    # A character takes one to four bytes: only a text between the two bounds has to be encoded to know.
    if len(text) > 0x3FFF and len(text.encode(errors="surrogatepass")) > 0xFFFF:
        raise MalformedPacket(f"{kind} {shown(text)} is longer than 65535 bytes")


def validate_name(topic: str) -> None:
    """Raise `TopicNameInvalid` or `MalformedPacket` unless ``topic`` is a name that may be published to."""
    if not topic:
        raise TopicNameInvalid("topic name is empty")
    if "+" in topic or "#" in topic:
        raise TopicNameInvalid(f"topic name {shown(topic)} holds a wildcard")
    _check_text(topic, "topic name")


def validate_filter(filter: str) -> None:
    """Raise `TopicFilterInvalid` or `MalformedPacket` unless ``filter`` may be subscribed to.

    A shared subscription's filter is judged as the plain filter that it is to 3.1.1; `parse_share` judges the rest.
    """
    if not filter:
        raise TopicFilterInvalid("topic filter is empty")
    _check_text(filter, "topic filter")
    if "#" in filter and (filter.index("#") != len(filter) - 1 or (len(filter) > 1 and filter[-2] != "/")):
        raise TopicFilterInvalid(f"topic filter {shown(filter)}: '#' must be the whole last level")
    if "+" in filter and any("+" in level and level != "+" for level in filter.split("/")):
        raise TopicFilterInvalid(f"topic filter {shown(filter)}: '+' must be a whole level")


def reserved(topic: str) -> bool:
    """Whether clients may not publish to this topic, whatever an ACL says: it is the broker's to speak there."""
    return topic.startswith(("$SYS/", "$share/", "$sync/", "$presence/")) or topic == "$SYS"


def parse_share(filter: str) -> tuple[str, str] | None:
    """Split ``$share/<name>/<filter>`` into share name and inner filter; None for a filter that is not shared.

    Raises `TopicFilterInvalid` where the share name is empty [MQTT-4.8.2-1] or holds a wildcard [MQTT-4.8.2-2], or no filter
    follows it, or the inner filter is invalid. The specification names no code for the first three: a protocol error.
    """
    if not filter.startswith(SHARE):
        return None
    _check_text(filter, "topic filter")
    name, slash, inner = filter[len(SHARE) :].partition("/")
    if not name or "+" in name or "#" in name:
        raise TopicFilterInvalid(f"share name {shown(name)} must have a character, and no wildcard", ReasonCode.PROTOCOL_ERROR)
    if not slash or not inner:
        raise TopicFilterInvalid(
            f"shared subscription {shown(filter)} needs a filter after its share name", ReasonCode.PROTOCOL_ERROR
        )
    validate_filter(inner)
    return name, inner


def is_wildcard(filter: str) -> bool:
    """Whether a valid filter may match more than one topic."""
    return "+" in filter or "#" in filter


def matches(filter: str, topic: str) -> bool:
    """Whether a valid, unshared filter matches a valid topic name."""
    if filter == topic:
        return True
    if topic[0] == "$" and filter[0] in "+#":  # [MQTT-4.7.2-1]
        return False
    wanted = filter.split("/")
    levels = topic.split("/")
    if wanted[-1] == "#":  # "a/#" matches "a" too
        wanted.pop()
        if len(levels) < len(wanted):
            return False
    elif len(levels) != len(wanted):
        return False
    return all(want in ("+", level) for want, level in zip(wanted, levels, strict=False))


def overlap(one: str, other: str) -> bool:
    """Whether some topic name matches both of two valid, unshared filters."""
    if (one[0] == "$" and other[0] in "+#") or (other[0] == "$" and one[0] in "+#"):  # [MQTT-4.7.2-1]
        return False
    left, right = one.split("/"), other.split("/")
    for mine, its in zip(left, right, strict=False):
        if "#" in (mine, its):
            return True
        if mine != its and "+" not in (mine, its):
            return False
    longer, shorter = (left, right) if len(left) > len(right) else (right, left)
    if len(longer) == len(shorter):
        return True
    if longer[0] == "" and shorter == ["+"]:  # "/#" would match the empty name as "+" does, but that is none [MQTT-4.7.3-1]
        return False
    return longer[len(shorter)] == "#"  # "a/#" matches "a" too
