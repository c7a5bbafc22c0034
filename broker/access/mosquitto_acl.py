"""An ``acl_file`` as Mosquitto reads it (mosquitto.conf(5), and its source: security_default.c of 2.0).

- ``topic`` lines hold for the user of the ``user`` line above them; those above the first ``user`` line for clients without a
  verified user name, and for nobody else. ``pattern`` lines hold for everybody: ``%u`` is the user name, ``%c`` the client id.
- A ``topic`` line that denies wins over the other ``topic`` lines of its user, and these win over all ``pattern`` lines; among
  those, too, denying wins. What no line allows is denied.
- ``write`` is publishing; ``read`` is receiving, history and search. Subscribing is allowed to every filter, as in Mosquitto:
  what may not be read is not received.
- Where there are ``pattern`` lines, they allow nothing to a user name or client id with ``+`` or ``#``.

One thing is narrower here: a name with ``/`` fills no ``%u`` or ``%c``, which would be a level more than was written. Mosquitto
lets the client that calls itself ``pump/7`` into what ``pattern readwrite %c/#`` gave to ``pump``.
"""

from __future__ import annotations

from pathlib import Path

from broker.access.filter_tree import Caller, FilterTree, levels_of
from broker.access.rule_set import PUBLISH, SUBSCRIBE, Rule, Verdict
from broker.packets import ProtocolViolation, shown, validate_filter

_ACCESS = {
    "read": frozenset({"read"}),
    "write": frozenset({"write"}),
    "readwrite": frozenset({"read", "write"}),
    "deny": frozenset({"read", "write"}),
}
_PATTERN = {"%u": "user", "%c": "client"}


class MosquittoAcl:
    """The lines of one file. Raises ValueError with file and line for the first that Mosquitto would not read either."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._topics: dict[str | None, FilterTree[Rule]] = {}
        self._patterns: FilterTree[Rule] = FilterTree()
        self._has_patterns = False
        user: str | None = None
        for number, line in enumerate(_text(path).split("\n"), 1):
            if line.startswith("#") or not line.strip():
                continue
            word, _, rest = line.strip().partition(" ")
            rest = rest.strip()
            if word == "user" and rest:
                user = rest
            elif word in ("topic", "pattern") and rest:
                self._add(number, word, rest, user)
            else:
                raise ValueError(
                    f"{self._place(number)}: {shown(line.strip())} must be user, topic or pattern, and what it is about"
                )

    @property
    def empty(self) -> bool:
        """Never: a file without lines denies everything, as Mosquitto does."""
        return False

    def _place(self, number: int) -> str:
        return f"{self._path}, line {number}"

    def _add(self, number: int, word: str, rest: str, user: str | None) -> None:
        first, space, filter = rest.partition(" ")
        access = first if space else "readwrite"
        filter = filter.strip() if space else rest
        if access not in _ACCESS:
            raise ValueError(f"{self._place(number)}: {access!r} must be read, write, readwrite or deny")
        try:
            validate_filter(filter)
        except ProtocolViolation as violation:
            raise ValueError(f"{self._place(number)}: {violation.text}") from violation
        of = "" if word == "pattern" else f" (user {user})" if user is not None else " (clients without a user name)"
        rule = Rule(access != "deny", _ACCESS[access], self._place(number), f"{word} {access} {filter}{of}", number)
        if word == "pattern":
            self._has_patterns = True
            self._patterns.add(levels_of(filter, _PATTERN), rule)
        else:
            self._topics.setdefault(user, FilterTree()).add(levels_of(filter, {}), rule)

    def verdict(self, caller: Caller, action: str, topic: str) -> Verdict | None:
        """As of `broker.access.rules.Source`."""
        if action == SUBSCRIBE:
            return Verdict(
                True, None, f"allowed by {self._path}: to subscribe is; what may be read there is asked about each message"
            )
        wanted = "write" if action == PUBLISH else "read"
        own = self._topics.get(caller.user)
        found = _decided(own.covering(topic, caller), wanted) if own is not None else None
        if found is not None or not self._has_patterns:
            return found
        if any(sign in name for name in (caller.user, caller.client) if name is not None for sign in "+#"):
            return Verdict(False, None, f"denied by {self._path}: a name with + or # fits no pattern")
        return _decided(self._patterns.covering(topic, caller), wanted)


def _decided(rules: list[Rule], wanted: str) -> Verdict | None:
    for rule in sorted(rules, key=lambda rule: (rule.allow, rule.number)):
        if wanted in rule.actions:
            return rule.verdict
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"cannot read {path}: {reason}") from error
