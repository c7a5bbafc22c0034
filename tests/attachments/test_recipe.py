"""The recipe of docs/attachments.md, as it stands there."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import yaml

from tests.attachments.parts import CONTENT, url_of
from tests.http.conftest import site

_PAGE = (Path(__file__).resolve().parents[2] / "docs" / "attachments.md").read_text()


async def test_the_recipe_works(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(CONTENT)
    plugins = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", _PAGE, re.DOTALL)[0])["plugins"]
    (code,) = re.findall(r"```python\n(.*?)```", _PAGE, re.DOTALL)
    async with site(url_of(tmp_path), plugins=plugins) as made:
        code = code.replace("http://127.0.0.1:8080", made.url)
        code = code.replace("1883", str(made.address[1])).replace(
            '"photo.jpg", chunk', f"{str(tmp_path / 'photo.jpg')!r}, chunk"
        )
        names: dict[str, Any] = {}
        await asyncio.to_thread(exec, code, names)
        answer = names["answer"]
        assert (answer.status_code, answer.content) == (206, CONTENT[:1024])
        (message,) = (await made.caller().get("/conversations/chat/1/messages")).json()["messages"]
        assert message["properties"] == [["attachment", names["uploader"].url.rpartition("/")[2]]]
        await asyncio.to_thread(names["client"].loop_stop)
