"""Every error as problem+json (RFC 9457), also those that the framework raises."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from broker.amqtt import Undecided
from broker.config import dotted, shown, wanted
from plugins.http.rendering import dumps
from plugins.http.strict import fields_of
from plugins.timelines.errors import Problem
from plugins.timelines.fields import unknown
from plugins.timelines.service import problem_of
from storage.errors import StorageError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


def answer(status: int, name: str, title: str, detail: str, headers: dict[str, str] | None = None, **extra: Any) -> Response:
    """A problem as a response."""
    return Response(dumps(_body(status, name, title, detail, **extra)), status, headers, MEDIA_TYPE)


def problem_body(problem: Problem) -> dict[str, Any]:
    """A problem as JSON."""
    return _body(problem.status, problem.name, problem.title, problem.detail, **problem.extra)


def _body(status: int, name: str, title: str, detail: str, **extra: Any) -> dict[str, Any]:
    return {"type": f"urn:tideline:{name}", "title": title, "status": status, "detail": detail, **extra}


def response_to(problem: Problem) -> Response:
    """One of our problems as a response."""
    headers = {"Retry-After": str(problem.retry_after)} if problem.retry_after else {}
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="tideline", charset="UTF-8", Bearer realm="tideline"'
    return answer(problem.status, problem.name, problem.title, problem.detail, headers, **problem.extra)


def said(finding: Mapping[str, Any], fields: Collection[str]) -> str:
    """One of pydantic's findings: where, the value, what would be right."""
    place, *path = _place(finding)
    if finding["type"] == "extra_forbidden":
        return unknown("field", str(path[-1]), fields).detail
    where = f"{place}.{dotted(tuple(path))}" if path else str(place)
    if finding["type"] == "missing":
        return f"{where} {wanted(finding)}"
    return f"{where}: {shown(tuple(path), finding['input'])} {wanted(finding)}"


def _place(finding: Mapping[str, Any]) -> list[str | int]:
    """Where, without which kind of several a body was taken for."""
    return [part for part in finding["loc"] if not str(part).startswith("(")]


def _unread(cause: BaseException) -> str:
    """Why a body could not be read, where it is not for its JSON."""
    if isinstance(cause, RecursionError):
        return "the body is nested too deeply"
    if isinstance(cause, UnicodeDecodeError):
        return "the body is not UTF-8"
    return f"the body has a whole number of more than {sys.get_int_max_str_digits()} digits"


def install(app: FastAPI) -> None:
    """Have every error of the app told so."""

    async def ours(request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        assert problem is not None
        return response_to(problem)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        for finding in error.errors():
            if finding["type"] == "json_invalid":
                place = f"at character {finding['loc'][-1]}: {finding['ctx']['error']}"
                return answer(400, "malformed", "not JSON", f"the body is not JSON, {place}")
        route = request.scope.get("route")
        found = [{"where": ".".join(map(str, _place(e))), "what": said(e, fields_of(route))} for e in error.errors()]
        detail = "; ".join(e["what"] for e in found[:3])
        return answer(422, "invalid", "a value is not valid", detail, errors=found[:20])

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 400 and isinstance(error.__cause__, ValueError | RecursionError):
            return answer(400, "malformed", "not JSON", _unread(error.__cause__))
        name, detail = {
            404: ("not-found", f"no such path: {request.url.path}; /docs lists those of the plugins that are on"),
            405: ("method", f"{request.method} is not for {request.url.path}; /docs lists what is, by the plugins that are on"),
        }.get(error.status_code, ("http", str(error.detail)))
        return answer(error.status_code, name, str(error.detail).lower(), detail, dict(error.headers or {}))

    async def undecided(request: Request, error: Exception) -> Response:
        return answer(
            503,
            "undecided",
            "not known yet",
            "storage was given it and does not answer: it may be stored yet; ask again with the same Idempotency-Key",
            {"Retry-After": "5"},
        )

    async def bug(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return answer(500, "internal", "internal error", "this is our fault; the broker's log says more")

    app.add_exception_handler(Problem, ours)
    app.add_exception_handler(StorageError, ours)
    app.add_exception_handler(Undecided, undecided)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, bug)
