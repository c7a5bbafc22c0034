"""The condition of a rule: a filter expression of JSONPath (RFC 9535), in which ``@`` is the message. No I/O.

What it may hold is limited so that it takes a time that grows with the payload's size and no faster: each part of a path
passes each value once at most. ``match`` and ``search`` are left out, as a regular expression may take for ever.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from jsonpath_rfc9535 import JSONPathEnvironment, JSONPathError
from jsonpath_rfc9535.lex import tokenize
from jsonpath_rfc9535.tokens import TokenType

from plugins.rules.seen import MEMBERS

LONGEST = 1000
"""Characters."""

ENVIRONMENT = JSONPathEnvironment()
for _name in ("match", "search"):
    del ENVIRONMENT.function_extensions[_name]

_BEFORE, _AFTER = "$[?", "]"


class Condition:
    """Raises ValueError, which says what is wrong. An empty ``text`` always holds."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._query = _compiled(text) if text else None
        self.of_payload = any(part in text for part in ("payload", "*", ".."))
        """Whether it looks into the payload: what is no JSON then does not match."""

    def holds(self, document: dict[str, Any]) -> bool:
        """Whether a message (`Seen.document`) is meant. Raises `jsonpath_rfc9535.JSONPathError`, and RecursionError."""
        return self._query is None or self._query.find_one([document]) is not None


def _compiled(text: str) -> Any:
    if len(text) > LONGEST:
        raise ValueError(f"{text[:40]!r}… has {len(text)} characters; at most {LONGEST} are taken")
    try:
        query = ENVIRONMENT.compile(whole := f"{_BEFORE}{text}{_AFTER}")
        tokens = Counter(token.type_ for token in tokenize(whole))
    except JSONPathError as error:
        raise ValueError(f"{text!r}: {_wording(error)}; right is such as @.payload.celsius > 30 && @.topic == 'a/b'") from None
    if len(query.segments) != 1 or len(query.segments[0].selectors) != 1:
        raise ValueError(f"{text!r}: must be one condition, without the brackets around it")
    if tokens[TokenType.DOUBLE_DOT] > 1 or tokens[TokenType.FILTER] > 2:
        raise ValueError(f"{text!r}: may hold one '..' and one condition within ([?…]) at most")
    if tokens[TokenType.ROOT] > 1 or tokens[TokenType.COMMA]:
        raise ValueError(f"{text!r}: must hold no '$' ('@' is the message) and no list of selectors")
    _refuse_unknown(text, whole)
    return query


def _refuse_unknown(text: str, whole: str) -> None:
    """A path of the message that begins with what is no member of it would silently never hold."""
    previous = None
    depth = 0
    for token in tokenize(whole):
        depth += token.type_ == TokenType.FILTER
        if depth == 1 and previous == TokenType.CURRENT and token.type_ == TokenType.PROPERTY and token.value not in MEMBERS:
            raise ValueError(f"{text!r}: a message has no {token.value!r}; it has {', '.join(MEMBERS)}")
        previous = token.type_


def _wording(error: JSONPathError) -> str:
    """What is wrong, and before what, without the brackets that we put around it."""
    what = str(error.args[0]) if error.args else "cannot be read"
    if error.token is None:
        return what
    place = error.token.index - len(_BEFORE)
    return f"{what} (at character {max(place, 0) + 1})"
