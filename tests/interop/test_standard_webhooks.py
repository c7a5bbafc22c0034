"""The library of standardwebhooks.com takes what a broker sends, and nothing that was changed on the way."""

from __future__ import annotations

import pytest

from tests.support.broker import running
from tests.webhooks.receiver import SECRET, Receiver
from tests.webhooks.test_webhooks import plugins

library = pytest.importorskip("standardwebhooks", reason="standardwebhooks is missing: make interop installs it from PyPI")


async def test_a_stock_library_checks_the_signatures() -> None:
    async with Receiver() as receiver, running(plugins=plugins(receiver, start="earliest")) as broker:
        client = await broker.durable("client", 5)
        await client.publish("t", "héllo".encode(), qos=1)
        await receiver.told(1)
    ((headers, body),) = receiver.requests
    stock = library.Webhook(SECRET)
    assert stock.verify(body, headers)["data"]["message"]["payload"] == "héllo"
    with pytest.raises(library.WebhookVerificationError):
        stock.verify(body.replace(b"client", b"cliant"), headers)
