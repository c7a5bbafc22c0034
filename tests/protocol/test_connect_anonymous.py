"""Anonymous clients come in where this machine alone can reach the listener, unless the listener says otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from broker.packets.codes import ReasonCode
from tests.support.broker import ANONYMOUS, running


@pytest.mark.parametrize(
    ("listener", "allowed"),
    [
        ({"bind": "127.0.0.1:0"}, True),
        ({"bind": "127.0.0.1:0", "anonymous": False}, False),
        ({"bind": "0.0.0.0:0"}, False),
        ({"bind": "0.0.0.0:0", "anonymous": True}, True),
    ],
)
async def test_who_has_no_name(listener: dict[str, Any], allowed: bool, caplog: pytest.LogCaptureFixture) -> None:
    listeners = [{"name": "tcp", **listener}]
    async with running(plugins=ANONYMOUS, listeners=listeners, errors=True) as broker:
        client = await broker.socket(5)
        assert (await client.connect("phone")).reason == (0 if allowed else ReasonCode.NOT_AUTHORIZED)
        assert ("set up users, or anonymous: true for the listener" in caplog.text) == (not allowed)
