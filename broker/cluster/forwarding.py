"""What the other nodes are told of a group: each gets what somebody due is connected to it for. No I/O.

| what | goes to | as |
|---|---|---|
| an entry of an inbox | the nodes that have a device of the user | a wake, with the message where it is small |
| a stored message | the nodes whose clean sessions want it | live |
| a message that inboxes do not hold (policies `store` and `none`) | the nodes of all users it matches | transient |
| one that is stored nowhere (policy `none`) | the nodes whose clean sessions want it, too | transient |
| what a message recalls | all nodes | a note |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from broker.publication import Publication
from broker.routing import Match
from broker.sessions import is_group
from storage.cluster import Note, Parcel, Wake
from storage.records import Message

RECALLED = "recalled"
"""The kind of the note that tells what was recalled."""
INLINE = 4096
"""Bytes of payload that a wake carries; the receiver reads a larger message from storage."""
_MOST_BYTES = 1 << 20
_MOST = 5000
"""What one parcel holds, so that it fits a document of any database."""


class Forwards:
    """The parcels for each node, by token."""

    def __init__(self) -> None:
        self._parcels: dict[int, list[Parcel]] = {}
        self._sizes: dict[int, tuple[int, int]] = {}

    def parcel(self, token: int, size: int) -> Parcel:
        """The parcel for what a node gets next."""
        parcels = self._parcels.setdefault(token, [])
        count, held = self._sizes.get(token, (_MOST, 0))
        if count >= _MOST or held + size > _MOST_BYTES:
            parcels.append(Parcel())
            count = held = 0
        self._sizes[token] = (count + 1, held + size)
        return parcels[-1]

    def recalled(self, publications: Iterable[Publication], others: Sequence[int]) -> None:
        """All other nodes are told what the messages recall: any of them may have read it before."""
        for publication in publications:
            if publication.recalls and publication.error is None and publication.original is None:
                message = publication.message
                body = {"topic": message.topic, "ids": list(publication.recalls), "by": message.id}
                for token in others:
                    self.parcel(token, 0).notes.append(Note(RECALLED, 0, body))

    def rounds(self) -> Iterator[dict[int, Parcel]]:
        """Parcels to send one after the other, one for each node at a time."""
        while self._parcels:
            yield {token: parcels.pop(0) for token, parcels in self._parcels.items()}
            self._parcels = {token: parcels for token, parcels in self._parcels.items() if parcels}


class Directory(Protocol):
    """Who is where; see `broker.cluster.routes`."""

    def nodes_of(self, user: str) -> Iterable[int]:
        """The nodes that have a device of the user."""

    def nodes_for(self, topic: str) -> Iterable[int]:
        """The nodes whose clean sessions want the topic."""


def forwards_of(publications: Iterable[Publication], who: Directory, me: int) -> Forwards:
    """What the messages of a committed group mean to the other nodes."""
    forwards = Forwards()
    for publication in publications:
        if publication.error is not None or publication.original is not None:
            continue
        message = publication.message
        if publication.recipients:
            _wakes(forwards, publication, message, who, me)
        listening = dict.fromkeys(token for token in who.nodes_for(message.topic) if token != me)
        if publication.store:
            for token in listening:
                forwards.parcel(token, len(message.payload)).live.append(message)
            listening = {}
        found = publication.matched
        if not publication.recipients and isinstance(found, Match):
            nodes = (token for user in found.recipients for token in who.nodes_of(user) if token != me)
            listening.update(dict.fromkeys(nodes))
        for token in listening:
            forwards.parcel(token, len(message.payload)).transient.append(message)
    return forwards


def _wakes(forwards: Forwards, publication: Publication, message: Message, who: Directory, me: int) -> None:
    size = len(message.payload)
    small = size <= INLINE
    for user, seq in zip(publication.recipients, publication.inbox_seqs, strict=True):
        for token in who.nodes_of(user):
            if token != me:
                inline = small and not is_group(user)  # of a group's inbox each node reads what it claims
                forwards.parcel(token, size if inline else 0).wakes.append(Wake(user, seq, message if inline else None))
