"""Several devices of one user share an inbox, and each gets what is its own."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.laws_process import BrokerProcess, broker_process
from tests.support.laws_wire import dropping, enter


async def _subscribe_one_after_the_other(broker: BrokerProcess) -> None:
    phone = await enter(broker, "ann", "phone")
    laptop = await enter(broker, "ann", "laptop")
    publisher = await enter(broker, "pub", "publisher", clean=True)
    async with dropping(phone, laptop, publisher):
        await phone.subscribe("r/#", options=1)
        await publisher.publish("r/1", b"kept", retain=True)
        assert not (await phone.message()).retain
        await laptop.subscribe("r/#", options=1)
        message = await laptop.message()
        assert (message.payload, message.retain) == (b"kept", True)
        await phone.quiet()
        await publisher.publish("r/1", b"new")
        for device in (phone, laptop):
            assert (await device.message()).payload == b"new"


def test_a_retained_message_goes_to_the_device_that_subscribed(tmp_path: Path, url: str) -> None:
    with broker_process(tmp_path, url) as broker:
        asyncio.run(_subscribe_one_after_the_other(broker))
        broker.stop()
