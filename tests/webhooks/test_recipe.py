"""The recipe of docs/webhooks.md, told to a real HTTP service: of whom, and in which form, as the page shows."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from tests.http.conftest import site
from tests.support.laws_process import ROOT
from tests.webhooks.receiver import Receiver

_PAGE = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")


def shown() -> tuple[dict[str, str], bytes]:
    """Headers and body of the request on the page."""
    (text,) = re.findall(r"```\n(POST .*?)\n```", _PAGE, re.DOTALL)
    head, _, body = text.partition("\n\n")
    return {name: value for name, _, value in (line.partition(": ") for line in head.splitlines()[1:])}, body.encode()


def form(value: Any) -> Any:
    """The names in it, in their order, and the kinds of what they name."""
    return [(name, form(each)) for name, each in value.items()] if isinstance(value, dict) else type(value).__name__


async def test_the_recipe_works() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", _PAGE, re.DOTALL)
    plugins = yaml.safe_load(text)["plugins"]
    (hook,) = plugins["webhooks"]["hooks"]
    async with Receiver(*hook["secrets"]) as receiver:
        assert hook["url"].endswith("/hooks")
        hook["url"] = receiver.url
        async with site(plugins=plugins) as made:
            for name in ("here", "away"):
                device = await made.durable(name, 5)
                await device.subscribe("#", options=1)
            await made.lose(device, "away")
            sender = await made.durable("sender", 5)
            for topic in ("elsewhere", "chat/1"):
                await sender.publish(topic, b"hello", qos=1)
            await receiver.told(1)
            (event,) = receiver.events
            assert (event["data"]["user"], event["data"]["message"]["topic"]) == ("c/away", "chat/1")
        headers, body = shown()
        ((sent, told),) = receiver.requests
        assert set(headers) <= set(sent)
        assert form(json.loads(told)) == form(json.loads(body))


async def test_the_signature_on_the_page_is_right() -> None:
    (secret,) = re.findall(r"secrets: \[(\w+)\]", _PAGE)
    headers, body = shown()
    assert Receiver(secret).take(headers, body) == 200
    assert Receiver(secret).take(headers, body.replace(b":", b": ")) == 401
