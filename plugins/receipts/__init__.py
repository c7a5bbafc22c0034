"""Receipts: the ledger of a message for who may ask, and what its sender is told of it without asking (docs/receipts.md).

Kept true: whoever publishes waits for none of it. What is told is what `broker.ledger` finds, so a receipt that was missed can
be asked for.
"""

from plugins.receipts.plugin import ReceiptsPlugin

__all__ = ["ReceiptsPlugin"]
