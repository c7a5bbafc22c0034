"""What a call does not take is refused by name: an ignored parameter gives another answer than the one that was asked for."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, get_args

from fastapi import APIRouter, Depends
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request

from plugins.timelines import Unprocessable
from plugins.timelines.fields import once, unknown

V1 = "/v1"


async def only_known(request: Request) -> None:
    """A dependency of every route. Raises `Unprocessable` for a query parameter that it does not take, or one given twice,
    for a field of the body that is, and for a body where it takes none."""
    route = request.scope["route"]
    if not isinstance(route, APIRoute):
        return
    known = query_parameters(route.dependant)
    given = Counter(name for name, _ in request.query_params.multi_items())
    for name, times in given.items():
        if name not in known:
            raise unknown("query parameter", name, known)
        if times > 1 and not known[name]:
            raise Unprocessable(f"{name}: given {times} times; this call takes one")
    await _check_body(request, takes_one=route.body_field is not None)


def router_of(tag: str) -> APIRouter:
    """A router below `V1` whose routes an application takes as they are: those that it includes are made a second time."""
    return APIRouter(prefix=V1, tags=[tag], dependencies=[Depends(only_known)])


def fields_of(route: object) -> list[str]:
    """What the body of a call may hold."""
    field = route.body_field if isinstance(route, APIRoute) else None
    if field is None:
        return []
    return [name for kind in _models(field.field_info.annotation) for name in kind.model_fields]


def _models(kind: Any) -> list[type[BaseModel]]:
    """The bodies that a type stands for: of a union all, of a list its items."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return list(dict.fromkeys(model for inner in get_args(kind) for model in _models(inner)))


def query_parameters(dependant: Dependant) -> dict[str, bool]:
    """Name → whether it may be given more than once, of a route and of what it depends on."""
    found = {field.alias: _repeats(field.field_info.annotation) for field in dependant.query_params}
    for inner in dependant.dependencies:
        found |= query_parameters(inner)
    return found


def _repeats(annotation: Any) -> bool:
    return "list[" in str(annotation)


async def _check_body(request: Request, *, takes_one: bool) -> None:
    """Where the call takes a body, FastAPI has parsed and checked it, and kept the last of two fields of one name."""
    body = await request.body()
    try:
        fields = json.loads(body, object_pairs_hook=once) if body else {}
    except ValueError:
        raise Unprocessable("this call takes no body") from None
    except RecursionError:
        raise Unprocessable("the body is nested too deeply") from None
    if fields and not takes_one:
        raise unknown("field", next(iter(fields)), ()) if isinstance(fields, dict) else Unprocessable("this call takes no body")
