"""What plugins do by calls: the same as callers over HTTP and `$sync/request`, by the same rules."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

import pytest

from plugins.conversations import ConversationsPlugin
from plugins.presence import PresencePlugin
from plugins.recall import RecallPlugin
from plugins.receipts import ReceiptsPlugin
from plugins.schedules import SchedulesPlugin
from plugins.schedules.when import When
from plugins.timelines import OPERATOR, NotFound, Timelines, Who
from plugins.timelines.messages import hex_id
from plugins.timelines.publishing import Draft
from tests.http.conftest import site
from tests.support.laws_process import ROOT
from tests.support.until import until

PLUGINS: dict[str, Any] = {"conversations": {}, "presence": {}, "recall": {}, "receipts": {}, "schedules": {}}


async def test_a_plugin_does_what_a_caller_does() -> None:
    ann, eve = Who("c/ann"), Who("c/eve")
    async with site(plugins=PLUGINS) as made:
        api = made.server.api
        conversations, recalls = api.plugin(ConversationsPlugin), api.plugin(RecallPlugin)
        schedules, receipts, presence = api.plugin(SchedulesPlugin), api.plugin(ReceiptsPlugin), api.plugin(PresencePlugin)
        assert conversations is not None
        assert recalls is not None
        assert schedules is not None
        assert receipts is not None
        assert presence is not None
        topic = (await conversations.service.create(ann, "group", name="tea"))["topic"]
        with pytest.raises(NotFound):
            await conversations.service.about(eve, topic)
        shown, new = await schedules.service.schedule(ann, Draft(topic, b"now"), When(delay=0.0))
        assert (shown["sender"], new) == ("c/ann", True)
        (message,) = await until(lambda: made.server.storage.read_conversation(topic))
        await recalls.recalls.react(ann, hex_id(message.id), "x")
        assert await recalls.recalls.reactions(ann, hex_id(message.id)) == [{"user": "c/ann", "reaction": "x"}]
        assert (await conversations.values.set(ann, "draft", 1))["value"] == 1
        assert [one["topic"] for one in (await conversations.listing.page(ann, "", 9))["conversations"]] == [topic]
        counts = await receipts.service(Timelines(api, 10.0)).counts(ann, hex_id(message.id))
        assert counts["message"] == hex_id(message.id)
        assert (await presence.reader.one(Who(OPERATOR, operator=True), "c/ann"))["online"] is False


def test_what_the_page_names_is_there() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    classes = re.findall(r"^\| `(plugins\.\w+)\.(\w+Plugin)` \|", page, re.MULTILINE)
    assert len(classes) == 6
    for module, name in classes:
        assert hasattr(import_module(module), name)
