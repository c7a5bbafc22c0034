"""What every route needs: the services, the caller, and who waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Depends, Query
from starlette.requests import Request

from broker.amqtt import Services
from broker.log_levels import LogLevels
from plugins.http.auth import Authenticator, acting_for
from plugins.http.models import LONGEST_USER, ProblemDocument
from plugins.http.rates import Rates
from plugins.timelines import Forbidden, Timelines, Unprocessable, Who
from plugins.timelines.errors import TooMany
from plugins.timelines.keys import checked_name, user_key
from storage.records import DeviceKey

MAX_WAITING_OF_ONE = 100
"""Calls of one user that may wait at once."""


class Api:
    """The state of the app: ``app.state.api``."""

    def __init__(
        self,
        server: Services,
        authenticator: Authenticator,
        rates: Rates,
        *,
        timeout: float,
        max_wait: float,
        max_waiting: int,
    ) -> None:
        self.rates = rates
        self.server = server
        self.authenticator = authenticator
        self.timelines = Timelines(server, timeout)
        self.max_wait = max_wait
        self.stopping = asyncio.Event()
        self.levels = LogLevels()
        self._max_waiting = max_waiting
        self._waiting: Counter[str] = Counter()

    @contextmanager
    def waiting(self, who: Who) -> Iterator[None]:
        """While a caller is kept waiting; `TooMany` where too many are, or too many of one user."""
        waiting, mine = self._waiting, self._waiting[who.user]
        if waiting.total() >= self._max_waiting or mine >= MAX_WAITING_OF_ONE:
            self.server.counters.limit_http_waiting += 1
            raise TooMany("too many calls wait already", retry_after=5)
        waiting[who.user] += 1
        try:
            yield
        finally:
            waiting[who.user] -= 1
            if not waiting[who.user]:
                del waiting[who.user]


def api_of(request: Request) -> Api:
    found: Api = request.app.state.api
    return found


async def caller(request: Request) -> Who:
    api = api_of(request)
    who = await api.authenticator.who(request)
    api.rates.caller(who)
    return who


async def acting(
    who: Annotated[Who, Depends(caller)],
    user: Annotated[
        str | None, Query(max_length=LONGEST_USER, description="for operators: whom to act for, u/name or c/client-id")
    ] = None,
) -> Who:
    return acting_for(who, checked_user(user))


async def operator(who: Annotated[Who, Depends(caller)]) -> Who:
    """The operator, and nobody else."""
    if not who.operator:
        raise Forbidden("this is for the operator: `tideline` commands on the broker's machine, as the user who runs it")
    return who


ApiDep = Annotated[Api, Depends(api_of)]
Caller = Annotated[Who, Depends(caller)]
Acting = Annotated[Who, Depends(acting)]
Operator = Annotated[Who, Depends(operator)]
Limit = Annotated[int, Query(ge=1, le=500)]


def checked_user(user: str | None) -> str | None:
    """A user key, or None. Raises `Unprocessable`."""
    return None if user is None else user_key(user)


def device_key(who: Who, device: str, user: str | None) -> tuple[Who, DeviceKey]:
    """A device and who acts for its user."""
    if not device:
        raise Unprocessable("device: must not be empty")
    who = acting_for(who, checked_user(user), checked_name(device, "device"))
    return who, DeviceKey(who.user, device)


PROBLEMS = {
    400: "not JSON",
    401: "no credentials, or wrong ones",
    403: "not allowed",
    404: "not there, or not yours",
    409: "a conflict with the present state",
    412: "a condition of the request does not hold",
    413: "too large",
    415: "not JSON",
    421: "a wrong host",
    422: "a value is not valid",
    460: "a checksum does not match",
    429: "too many requests, failed logins, or callers that wait",
    503: "storage or search is away",
}


def responses(*documented: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer with, for its documentation."""
    schema = {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}
    always = (400, 401, 403, 404, 409, 413, 415, 421, 422, 429, 503)
    return {
        status: {"description": PROBLEMS[status], "content": {"application/problem+json": {"schema": schema}}}
        for status in (*always, *documented)
    }
