"""The ledger of a message: in whose inboxes it is, and which devices were given it, have acknowledged it, and since when.

Kept true: nothing is written for an entry and a device (docs/decisions/0017). What the timelines say decides, so that the
counts are those of a recount at any moment.
"""

from broker.ledger.counts import Counts
from broker.ledger.pages import READ, TABLE, DevicePlace, Holder, Ledger, Page, Standings
from broker.ledger.standing import Filter, Place, Standing, State, from_plain, place, plain, session_standing, stored_standing
from broker.ledger.steps import Between, Step, Steps

__all__ = [
    "READ",
    "TABLE",
    "Between",
    "Counts",
    "DevicePlace",
    "Filter",
    "Holder",
    "Ledger",
    "Page",
    "Place",
    "Standing",
    "Standings",
    "State",
    "Step",
    "Steps",
    "from_plain",
    "place",
    "plain",
    "session_standing",
    "stored_standing",
]
