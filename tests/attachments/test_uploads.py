"""Uploads by tus 1.0: resumed where they were, whatever breaks, and refused where they may not be."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import shutil
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from plugins.attachments import AttachmentsPlugin
from plugins.attachments.record import PIECE
from tests.accounts.test_users import ACCOUNTS, CHEAP, users_of
from tests.attachments.parts import BYTES, CONTENT, NOBODY, TUS, begun, files, metadata, sent, stock, url_of, whole
from tests.http.conftest import site
from tests.support.broker import ANONYMOUS
from tests.support.laws_process import broker_process, free_port
from tests.support.storages import url
from tests.support.until import until

__all__ = ["url"]


async def test_a_stock_client_uploads_and_what_it_uploaded_is_given_as_it_is(tmp_path: Path) -> None:
    """With a checksum of each part; downloads are whole, in ranges, and never shown by a browser."""
    file = tmp_path / "über bild.png"
    file.write_bytes(CONTENT)
    async with site(url_of(tmp_path), plugins={"attachments": {}}) as made:
        caller = made.caller()
        path = (await stock(made.url, file, "chat/1")).removeprefix(f"{made.url}/v1")
        answer = await caller.get(path)
        assert (answer.status_code, answer.content) == (200, CONTENT)
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%BCber%20bild.png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        tag = answer.headers["etag"]
        ranges = {"bytes=0-9": CONTENT[:10], "bytes=699990-700009": CONTENT[699_990:700_010], "bytes=-5": CONTENT[-5:]}
        ranges |= {f"bytes={len(CONTENT) - 3}-": CONTENT[-3:], f"bytes=5-{len(CONTENT) * 2}": CONTENT[5:]}
        for wanted, part in ranges.items():
            answer = await caller.get(path, headers={"Range": wanted, "If-Range": tag})
            assert (answer.status_code, answer.content) == (206, part), wanted
        assert answer.headers["content-range"] == f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}"
        for wanted in ("bytes=5-2", "bytes=a-b", "bytes=0-1,3-4", "lines=1-2"):
            assert (await caller.get(path, headers={"Range": wanted})).status_code == 200
        assert (await caller.get(path, headers={"Range": "bytes=0-9", "If-Range": '"x"'})).status_code == 200
        assert (await caller.get(path, headers={"Range": f"bytes={len(CONTENT)}-"})).status_code == 416
        assert (await caller.get(path, headers={"If-None-Match": tag})).status_code == 304
        head = await caller.head(path)
        assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(CONTENT)), b"")
        options = await caller.options("/attachments")
        assert options.headers["tus-extension"] == "creation,creation-with-upload,termination,checksum,expiration"
        assert (await caller.get("/attachments/../../etc/passwd")).status_code == 404
        assert (await caller.get(f"/attachments/{'0' * 32}")).status_code == 404


async def test_who_uploads_faster_than_its_rate_waits_and_others_do_not(tmp_path: Path) -> None:
    async with site(url_of(tmp_path), plugins={"attachments": {"rate": 50_000}}) as made:
        plugin = made.server.api.plugin(AttachmentsPlugin)
        assert plugin is not None
        bob, ann = made.caller(params={"user": "c/bob"}), made.caller(params={"user": "c/ann"})
        large = (await begun(bob, "chat/1", len(CONTENT))).headers["location"].removeprefix("/v1")
        waits = asyncio.create_task(sent(bob, large, 0, CONTENT))
        await until(lambda: "c/bob" in plugin.uploads._due, "bob is told to wait")
        small = (await begun(ann, "chat/1", 10)).headers["location"].removeprefix("/v1")
        assert (await sent(ann, small, 0, CONTENT[:10])).status_code == 204
        assert not waits.done()
    await asyncio.wait([waits])  # the broker has ended, and did not wait
    assert isinstance(waits.exception(), httpx.ReadError) or waits.result().status_code == 503


async def test_an_upload_goes_on_where_it_was(tmp_path: Path) -> None:
    """After a connection that broke, small steps, a wrong offset, a wrong checksum, and two that write at once."""
    async with site(url_of(tmp_path), plugins={"attachments": {}}) as made:
        caller = made.caller()
        data = CONTENT * 4  # more than one piece
        path = (await begun(caller, "chat/1", len(data))).headers["location"].removeprefix("/v1")

        async def offset() -> int:
            return int((await caller.head(path, headers=TUS)).headers["upload-offset"])

        _, writer = await asyncio.open_connection(*made.url.removeprefix("http://").split(":"))
        head = f"PATCH /v1{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\nUpload-Offset: 0\r\n"
        writer.write((head + "".join(f"{name}: {value}\r\n" for name, value in BYTES.items()) + "\r\n").encode())
        writer.write(data[: PIECE + 100_000])
        await writer.drain()
        await until(lambda: offset_is(offset, PIECE))
        assert (await sent(caller, path, PIECE, b"x")).status_code == 409  # the other one writes
        writer.close()
        await until(lambda: offset_is(offset, PIECE + 100_000))
        at = PIECE + 100_000
        for size in (1000, 70_000):
            answer = await until(partial(taken, caller, path, at, data[at : at + size]))
            assert answer is not None
            at += size
            assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(at))
            assert answer.headers["upload-expires"].endswith("GMT")
        assert len(files(tmp_path)) == 2  # small steps are one piece
        wrong = base64.b64encode(hashlib.sha1(b"something else").digest()).decode()
        answer = await sent(caller, path, at, data[at:], **{"Upload-Checksum": f"sha1 {wrong}"})
        assert (answer.status_code, await offset()) == (460, at)
        assert (await sent(caller, path, at, data[at:], **{"Upload-Checksum": "crc32 AAAA"})).status_code == 400
        assert (await sent(caller, path, 0, b"x")).status_code == 409
        assert (await sent(caller, path, at, data[at:] + b"more")).status_code == 413
        assert await offset() == at
        assert (await caller.get(path)).status_code == 404  # it is not complete
        right = base64.b64encode(hashlib.sha1(data[at:]).digest()).decode()
        answer = await sent(caller, path, at, data[at:], **{"Upload-Checksum": f"sha1 {right}"})
        assert answer.headers["upload-offset"] == str(len(data))
        assert (await caller.get(path)).content == data
        assert (await caller.delete(path, headers=TUS)).status_code == 204
        assert (await caller.get(path)).status_code == 404
        assert files(tmp_path) == []


async def taken(caller: httpx.AsyncClient, path: str, at: int, data: bytes) -> httpx.Response | None:
    """The answer, once the request that broke has let go of the upload."""
    answer = await sent(caller, path, at, data)
    return None if answer.status_code == 409 else answer


async def offset_is(offset: object, wanted: int) -> bool:
    return bool(await offset() == wanted)  # type: ignore[operator]


async def test_who_is_shut_out_uploads_and_downloads_no_more(tmp_path: Path) -> None:
    """What came before is kept; a download breaks off."""
    async with site(url_of(tmp_path), plugins={"attachments": {}, **ACCOUNTS}) as made:
        users = users_of(made)
        await users.add("ann", CHEAP.hash("ann-password"))
        path = (await begun(made.caller("ann"), "chat/1", PIECE * 2)).headers["location"]
        more = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b"x" * PIECE
            await more.wait()
            yield b"x" * PIECE

        plugin = made.server.api.plugin(AttachmentsPlugin)
        assert plugin is not None
        headers = {**BYTES, "Upload-Offset": "0", "Content-Length": str(PIECE * 2)}
        upload = asyncio.create_task(made.caller("ann").patch(path.removeprefix("/v1"), content=body(), headers=headers))
        await until(lambda: plugin.uploads.received == PIECE)
        await users.change("ann", disabled=True)
        more.set()
        assert (await upload).status_code == 401
        await users.change("ann", disabled=False)
        told = await made.caller("ann").head(path.removeprefix("/v1"), headers=TUS)
        assert told.headers["upload-offset"] == str(PIECE)

        path = await whole(made.caller("ann"), "chat/1", CONTENT * 20)  # more than sockets hold
        async with made.caller("ann").stream("GET", path) as download:
            pieces = download.aiter_bytes()
            await anext(pieces)
            await users.change("ann", disabled=True)
            with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
                assert [piece async for piece in pieces]


async def test_an_offset_that_was_told_outlives_a_kill(tmp_path: Path, url: str) -> None:
    """The broker is killed while bytes come; the stock client goes on, and what comes out is what went in."""
    file = tmp_path / "file"
    file.write_bytes(CONTENT * 8)
    port = free_port()
    http = {"bind": f"127.0.0.1:{port}", "operator_file": ""}
    attachments = {} if url.startswith("sqlite") else {"directory": str(tmp_path / "attachments"), "shared": True}
    plugins = {**NOBODY, **ANONYMOUS, "http": http, "attachments": attachments}
    with broker_process(tmp_path, url, plugins=plugins) as broker:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/v1", timeout=60) as caller:
            path = (await begun(caller, "chat/1", len(CONTENT) * 8)).headers["location"].removeprefix("/v1")

            async def slowly() -> None:
                async def body() -> object:
                    for start in range(0, len(CONTENT) * 8, 100_000):
                        yield (CONTENT * 8)[start : start + 100_000]

                await caller.patch(path, content=body(), headers={**BYTES, "Upload-Offset": "0"})  # type: ignore[arg-type]

            sending = asyncio.create_task(slowly())

            async def told() -> int:
                return int((await caller.head(path, headers=TUS)).headers["upload-offset"])

            before = await until(told)
            await asyncio.to_thread(broker.kill)
            with pytest.raises(httpx.HTTPError):
                await sending
            await asyncio.to_thread(broker.start)
            assert await told() >= before
            http_url = f"http://127.0.0.1:{port}"
            await stock(http_url, file, "chat/1", at=f"{http_url}/v1{path}", chunk=4_000_000)
            assert (await caller.get(path)).content == CONTENT * 8


@pytest.mark.parametrize(
    ("headers", "status", "told"),
    [
        ({"Tus-Resumable": "0.2"}, 412, "must be 1.0.0"),
        ({"Upload-Length": "many"}, 400, "Upload-Length 'many': must be a number of bytes"),
        ({"Upload-Length": "1001"}, 413, "at most 1000 bytes"),
        ({"Upload-Defer-Length": "1"}, 400, "the length must be known"),
        ({"Upload-Metadata": ""}, 422, "topic is missing"),
        ({"Upload-Metadata": "topic §"}, 400, "not base64"),
        ({"Upload-Metadata": metadata(topic="a/+")}, 422, "a/+"),
        ({"Upload-Metadata": metadata(topic="$SYS/x")}, 403, "reserved"),
        ({"Upload-Metadata": metadata(topic="a", path="/etc")}, 422, "'path': not known"),
        ({"Upload-Metadata": metadata(topic="a", filename="a\nb")}, 422, "filename 'a\\\\nb'"),
        ({"Upload-Metadata": metadata(topic="a", filetype="image/png\r\nX: y")}, 422, "filetype 'image/png"),
        ({"Upload-Metadata": metadata(topic="a", filetype="x" * 256)}, 422, "up to 255 characters"),
        ({"Upload-Metadata": metadata(topic="a") + "," + metadata(topic="b")}, 400, "'topic' is given twice"),
    ],
)
async def test_what_is_wrong_with_an_upload_is_told(headers: dict[str, str], status: int, told: str, tmp_path: Path) -> None:
    async with site(plugins={"attachments": {"directory": str(tmp_path), "max_size": 1000}}) as made:
        asked = {**TUS, "Upload-Length": "5", "Upload-Metadata": metadata(topic="a"), **headers}
        answer = await made.caller().post(
            "/attachments", headers=[(name.encode(), value.encode()) for name, value in asked.items()]
        )
        assert (answer.status_code, told in answer.text) == (status, True), answer.text


async def test_limits(tmp_path: Path) -> None:
    limits = {"max_size": 1000, "quota": 1500, "max_unfinished": 2, "max_files": 3}
    async with site(url_of(tmp_path), plugins={"attachments": limits}) as made:
        caller = made.caller()
        assert (await begun(caller, "a", 1001)).status_code == 413
        paths = [(await begun(caller, "a", 100)).headers["location"].removeprefix("/v1") for _ in range(2)]
        assert (await begun(caller, "a", 100)).status_code == 429
        assert (await sent(caller, paths[0], 0, b"x" * 100)).status_code == 204
        assert (await begun(caller, "a", 1000, user="x")).status_code == 422
        over = await begun(caller, "a", 1000)
        assert over.status_code == 201
        await caller.delete(over.headers["location"].removeprefix("/v1"), headers=TUS)
        big = await begun(caller, "a", 1000)
        await caller.delete(paths[1], headers=TUS)
        second = await begun(caller, "a", 600)
        assert (second.status_code, "bytes of attachments" in second.text) == (413, True)
        assert big.status_code == 201


async def test_the_rest_of_a_disk_that_is_nearly_full_is_left_to_messages(tmp_path: Path) -> None:
    """The database takes messages for a while yet; where uploads are stays told, and what came before is kept."""
    free = shutil.disk_usage(tmp_path).free
    kept = {"persistence": {"url": url_of(tmp_path), "low_water_bytes": free // 5}}
    async with site(plugins={**kept, "attachments": {}}) as made:
        caller = made.caller()
        path = (await begun(caller, "a", 100)).headers["location"].removeprefix("/v1")
        answer = await sent(caller, path, 0, b"x" * 100)
        assert (answer.status_code, "nearly full" in answer.text) == (503, True)
        assert (await caller.head(path, headers=TUS)).headers["upload-offset"] == "0"
        assert (await caller.post("/messages", json={"topic": "a", "payload": "x"})).status_code == 201
