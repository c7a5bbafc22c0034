"""What the OpenAPI document says of the calls, which are plain routes (`plugins.attachments.routes`). No I/O."""

from __future__ import annotations

from typing import Any

from plugins.attachments import tus
from plugins.http.api import responses

_ID = {"name": "id", "in": "path", "required": True, "description": "the attachment's id", "schema": {"type": "string"}}
_USER = {
    "name": "user",
    "in": "query",
    "required": False,
    "description": "for operators: whom to act for, u/name or c/client-id",
    "schema": {"type": "string", "maxLength": 1024},
}
_BYTES = {"type": "string", "format": "binary"}


def paths(path: str) -> dict[str, Any]:
    """The calls below ``path``, as OpenAPI has them."""
    create = _call(
        "Begin an upload (tus 1.0). It may bring the first bytes with it. 201: its place is in `Location`.",
        _answers(201, "it is kept", 412, 460),
        _header("Upload-Length", "bytes of the whole attachment", "integer"),
        _header("Upload-Metadata", "`topic`, and if you like `filename` and `filetype`: names, each with its value in base64"),
        _header("Upload-Checksum", "sha1, sha256 or md5, a space, and the digest of the body in base64", required=False),
        body=False,
    )
    bring = _call(
        "Bring bytes at `Upload-Offset`. 204: what came is durable up to the `Upload-Offset` of the answer.",
        _answers(204, "they are durable", 412, 460),
        _header("Upload-Offset", "how much is durable already", "integer"),
        _header("Upload-Checksum", "sha1, sha256 or md5, a space, and the digest of the body in base64", required=False),
        body=True,
    )
    look = _call("Where an upload is: `Upload-Offset` says how much is durable.", _answers(200, "where it is", 412))
    end = _call("End an upload, or remove an attachment that no message has.", _answers(204, "it is gone", 412))
    about = {"description": "What is spoken here, and how large an attachment may be.", "responses": _answers(204, "headers")}
    return {
        path: {"post": create, "options": about},
        f"{path}/{{id}}": {"get": _download(), "head": _of_one(look), "patch": _of_one(bring), "delete": _of_one(end)},
    }


def _download() -> dict[str, Any]:
    whole = {"*/*": {"schema": _BYTES}}
    answers = {
        200: {"description": "the attachment", "content": whole},
        206: {"description": "the range of it that was asked for", "content": whole},
        304: {"description": "it is as the caller has it"},
        416: {"description": "it has no such range"},
        **responses(),
    }
    asked = [
        _header("Range", "one range, such as `bytes=0-1023`", required=False),
        _header("If-Range", "the `ETag` of which a range is wanted", required=False),
        _header("If-None-Match", "the `ETag` that the caller has", required=False),
    ]
    about = "An attachment, whole or a range of it, for who may read the conversation, and its uploader."
    return _of_one({"description": about, "tags": [_TAG], "parameters": [*asked, _USER], "responses": _by_text(answers)})


_TAG = "attachments"


def _call(about: str, answers: dict[str, Any], *headers: dict[str, Any], body: bool | None = None) -> dict[str, Any]:
    """A call of tus; ``body``: whether it must have bytes, None where it has none."""
    version = {**_header("Tus-Resumable", "the version of tus"), "schema": {"type": "string", "enum": [tus.VERSION]}}
    call = {"description": about, "tags": [_TAG], "parameters": [version, *headers, _USER], "responses": answers}
    if body is not None:
        call["requestBody"] = {"required": body, "content": {tus.CONTENT_TYPE: {"schema": _BYTES}}}
    return call


def _of_one(call: dict[str, Any]) -> dict[str, Any]:
    return {**call, "parameters": [_ID, *call["parameters"]]}


def _header(name: str, about: str, kind: str = "string", *, required: bool = True) -> dict[str, Any]:
    schema = {"type": kind, "minimum": 0} if kind == "integer" else {"type": kind}
    return {"name": name, "in": "header", "required": required, "description": about, "schema": schema}


def _answers(status: int, about: str, *more: int) -> dict[str, Any]:
    return _by_text({status: {"description": about}, **responses(*more)})


def _by_text(answers: dict[Any, Any]) -> dict[str, Any]:
    return {str(status): answer for status, answer in answers.items()}
