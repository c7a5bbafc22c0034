"""The kinds of damage that are looked for, each by a query over a SQLite file.

A MongoDB database is looked at through a file that its export fills, so that there is one description of what is sound.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from storage.sqlite import runs
from storage.sqlite.queries import CONVERSATION_HEAD, LAST_ID
from storage.sqlite.unsound import Unsound
from storage.verify import Damage

LARGEST_GAP = 100_000
"""A longer one is not filled up."""

_INBOX_HEAD = "ifnull((SELECT seq FROM sync WHERE user = u.id ORDER BY seq DESC LIMIT 1), u.floor)"
_HEADS = f"heads AS MATERIALIZED (SELECT u.key AS key, {_INBOX_HEAD} AS head FROM users AS u)"
_TOPIC_HEADS = f"heads AS MATERIALIZED (SELECT c.topic AS topic, {CONVERSATION_HEAD} AS head FROM conversations AS c)"
_CONVERSATION_GAPS = """
    WITH broken AS MATERIALIZED (
        SELECT * FROM conversations AS t WHERE (SELECT count(*) FROM store WHERE conversation = t.id AND seq > t.floor)
            != ifnull((SELECT max(seq) FROM store WHERE conversation = t.id AND seq > t.floor), t.floor) - t.floor
    )
    SELECT topic, before + 1, seq - 1 FROM (
        SELECT t.topic AS topic, e.seq AS seq, lag(e.seq, 1, t.floor) OVER (PARTITION BY t.id ORDER BY e.seq) AS before
        FROM broken AS t CROSS JOIN store AS e ON e.conversation = t.id AND e.seq > t.floor
    ) WHERE seq > before + 1
"""
_INBOX_GAPS = """
    SELECT u.key, max(ifnull(s.before, 0), u.floor) + 1, s.seq - s.count FROM (
        SELECT user, seq, COUNT AS count, lag(seq) OVER (PARTITION BY user ORDER BY seq) AS before FROM sync
    ) AS s CROSS JOIN users AS u ON u.id = s.user AND s.seq > u.floor
    WHERE s.seq - s.count > max(ifnull(s.before, 0), u.floor)
"""
_REMOVED = """
    SELECT max(ifnull((SELECT id FROM store WHERE conversation = c.id AND seq > c.floor ORDER BY seq LIMIT 1), 1 << 62))
    FROM conversations AS c WHERE c.floor > 0
"""
"""The lowest id that retention cannot have removed: what is gone of a conversation came before the first that it keeps. Nobody
removed what has an id that was never given."""

RUN = Damage(
    "run",
    "rows of an inbox that do not say what their entries are",
    "",
    "{0}: {1} to {2}",
    "kept what can be told of their entries; the others are marked as removed, so that devices pass over them",
)
"""Found by `storage.sqlite.unsound`, before all others."""
_DAMAGES = (
    Damage(
        "unregistered",
        "messages of a conversation that nothing names",
        """SELECT conversation, min(seq) FROM store WHERE conversation NOT IN (SELECT id FROM conversations)
        GROUP BY conversation""",
        "number {0}, from sequence {1}",
        "named lost-and-found/<number>",
    ),
    Damage(
        "nobody",
        "inbox entries that are nobody's",
        "SELECT user, count(*) FROM ENTRIES WHERE user NOT IN (SELECT id FROM users) GROUP BY user",
        "number {0}: {1} entries",
        "removed",
    ),
    Damage(
        "removed-messages",
        "messages below the first kept sequence",
        """SELECT c.topic, count(*) FROM conversations AS c CROSS JOIN store AS m ON m.conversation = c.id AND m.seq <= c.floor
        GROUP BY c.id""",
        "{0}: {1}",
        "removed, as retention had said that they were",
    ),
    Damage(
        "removed-entries",
        "inbox entries below the first kept sequence",
        "SELECT u.key, count(*) FROM users AS u CROSS JOIN ENTRIES AS s ON s.user = u.id AND s.seq <= u.floor GROUP BY u.id",
        "{0}: {1}",
        "removed, as the trimming of inboxes had said that they were",
    ),
    Damage(
        "dangling",
        "inbox entries whose message is gone, though retention cannot have removed it",
        f"""SELECT u.key, s.seq, s.message FROM users AS u CROSS JOIN ENTRIES AS s ON s.user = u.id
        WHERE s.message > min(ifnull(({_REMOVED}), 0), ({LAST_ID})) AND s.target IS NULL
        AND NOT EXISTS (SELECT 1 FROM store WHERE id = s.message)
        AND NOT EXISTS (SELECT 1 FROM retained WHERE id = s.message)""",
        "{0} {1}: message {2:016x}",
        "marked as removed, so that devices pass over them; the messages are lost",
    ),
    Damage(
        "conversation-gap",
        "gaps in conversations",
        _CONVERSATION_GAPS,
        "{0}: {1} to {2}",
        f"filled with empty messages that have expired, so nobody is given them; not a gap of more than {LARGEST_GAP:,}",
    ),
    Damage(
        "inbox-gap",
        "gaps in inboxes",
        _INBOX_GAPS,
        "{0}: {1} to {2}",
        f"filled with entries that count as removed; not a gap of more than {LARGEST_GAP:,}",
    ),
    Damage(
        "offset",
        "devices whose offset or cursor is not within their inbox",
        f"""WITH {_HEADS} SELECT d.user, d.client, d.position, d.cursor, ifnull(h.head, 0)
        FROM devices AS d LEFT JOIN heads AS h ON h.key = d.user
        WHERE d.position > ifnull(h.head, 0) OR d.cursor > ifnull(h.head, 0) OR d.cursor < d.position""",
        "{0} {1}: offset {2}, cursor {3}, the inbox ends at {4}",
        "set to where the inbox ends; what is in flight past it is dropped",
    ),
    Damage(
        "since",
        "subscriptions that begin past the end of their inbox",
        f"""WITH {_HEADS} SELECT d.user, d.client, s.filter, s.since, ifnull(h.head, 0)
        FROM subscriptions AS s JOIN devices AS d ON d.id = s.device LEFT JOIN heads AS h ON h.key = d.user
        WHERE s.since > ifnull(h.head, 0)""",
        "{0} {1} {2}: {3}, the inbox ends at {4}",
        "set to where the inbox ends",
    ),
    Damage(
        "left-over",
        "subscriptions, or QoS 2 state, of devices that are not there",
        """SELECT device, count(*) FROM subscriptions WHERE device NOT IN (SELECT id FROM devices) GROUP BY device
        UNION ALL SELECT place >> 16, count(*) FROM received WHERE place >> 16 NOT IN (SELECT id FROM devices) GROUP BY 1""",
        "number {0}: {1}",
        "removed",
    ),
    Damage(
        "retained",
        "retained messages with a sequence that their conversation does not have",
        f"""WITH {_TOPIC_HEADS} SELECT r.topic, r.seq, ifnull(h.head, 0)
        FROM retained AS r LEFT JOIN heads AS h ON h.topic = r.topic WHERE r.seq > ifnull(h.head, 0)""",
        "{0}: {1}, the conversation ends at {2}",
        "kept as retained messages that are in no conversation",
    ),
    Damage(
        "position",
        "read positions past the end of their conversation",
        f"""WITH {_TOPIC_HEADS} SELECT p.user, p.topic, p.position, ifnull(h.head, 0)
        FROM participants AS p LEFT JOIN heads AS h ON h.topic = p.topic WHERE p.position > ifnull(h.head, 0)""",
        "{0} {1}: {2}, the conversation ends at {3}",
        "set to where the conversation ends",
    ),
)


def damages(version: int, unsound: Sequence[Unsound] = ()) -> list[Damage]:
    """What is looked for in a file of that schema version, in this order: what one mends, the next may rest on.

    ``unsound``: what is found of the kind `RUN`. Such a row is taken to have all entries up to the row before it, as it has
    once it is mended, and only the last is looked at.
    """
    if version < runs.VERSION:
        sources = {"ENTRIES": "(SELECT user, seq, message, target FROM sync)", "COUNT": "1"}
    elif not unsound:
        sources = {"ENTRIES": "entries", "COUNT": "count"}
    else:
        keys = ", ".join(f"({row.number}, {row.last})" for row in unsound)
        sources = {
            "ENTRIES": runs.entries_of(f"iif((s.user, s.seq) IN (VALUES {keys}), NULL, s.run)"),
            "COUNT": f"iif((user, seq) IN (VALUES {keys}), {runs.LONGEST}, count)",
        }
    return [damage._replace(query=re.sub("ENTRIES|COUNT", lambda name: sources[name[0]], damage.query)) for damage in _DAMAGES]
