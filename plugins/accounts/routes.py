"""Routes: the users in storage, for the operator."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from broker.access import Account, hashed
from broker.amqtt import Undecided
from broker.hooks import NoSuchUser, UserExists
from plugins.accounts.store import UserStore
from plugins.http.api import Operator, responses
from plugins.http.models import Body, Milliseconds
from plugins.http.rendering import reply, tagged
from plugins.timelines import Conflict, NotFound, Unprocessable
from plugins.timelines.errors import Away
from storage.errors import StorageError

Name = Annotated[str, Path(max_length=1024)]
UserName = Annotated[str, Field(min_length=1, max_length=1024)]
Password = Annotated[str, Field(min_length=1, max_length=1024, json_schema_extra={"writeOnly": True})]
Hash = Annotated[str, Field(min_length=1, max_length=1024, json_schema_extra={"writeOnly": True})]
MOST = 1000
"""Users of one import."""


class NewUser(Body):
    """A user to add, with either a password or the hash of one."""

    name: UserName
    """The user name of MQTT: printable, without a colon."""
    password: Password | None = None
    """The password; an Argon2id hash of it is stored."""
    hash: Hash | None = None
    """What `tideline passwd` writes behind the user's name: an Argon2 hash, or the digest of a random password."""


class UserChange(Body):
    """What is to be another; what is left out stays."""

    password: Password | None = None
    """Another password. The user's connections end, and the tokens are revoked."""
    hash: Hash | None = None
    """The same by its hash."""
    disabled: bool | None = None
    """Whether the user is shut out. Connections end; sessions and messages stay."""


class UserImport(Body):
    """Users from elsewhere."""

    users: Annotated[dict[UserName, Hash], Field(max_length=MOST)]
    """User name → hash."""
    replace: bool = False
    """Whether a user who is there already gets the hash."""


class User(BaseModel):
    """A user, without anything of the password."""

    name: str
    disabled: bool
    created: Milliseconds
    changed: Milliseconds


class UserList(BaseModel):
    """``next`` is what to give as ``after`` for the next page; null at the end."""

    users: list[User]
    next: str | None


class ImportOutcome(BaseModel):
    """How many were added, changed, and left as they were."""

    added: int
    changed: int
    kept: int


def shown(account: Account) -> dict[str, object]:
    """A user as the operator may see it."""
    return {
        "name": account.name,
        "disabled": account.disabled,
        "created": account.created,
        "changed": account.changed,
    }


def make_router(users: UserStore) -> APIRouter:
    """The routes over what offers it."""
    router = APIRouter(tags=["users"])

    @router.get("/users", response_model=UserList, responses=responses())
    async def list_users(
        request: Request,
        who: Operator,
        after: Annotated[str, Query(max_length=1024)] = "",
        limit: Annotated[int, Query(ge=1, le=MOST)] = 100,
    ) -> Response:
        """The users in storage, by name. For the operator."""
        found = users.page(after, limit + 1)
        more = found[limit - 1].name if len(found) > limit else None
        return tagged(request, {"users": [shown(account) for account in found[:limit]], "next": more})

    @router.post("/users", response_model=User, status_code=201, responses=responses())
    async def add_user(body: NewUser, who: Operator) -> Response:
        """Add a user. With the first one, anonymous clients are refused from here on. For the operator."""
        kept = await _kept(body.password, body.hash)
        if kept is None:
            raise Unprocessable("password: it, or hash, must be given")
        with _refusals():
            return reply(shown(await users.add(body.name, kept)), 201)

    @router.post("/users/import", response_model=ImportOutcome, responses=responses())
    async def import_users(body: UserImport, who: Operator) -> Response:
        """Add users with hashes of their passwords, up to 1000 at once. One that is wrong keeps all out. For the operator."""
        with _refusals():
            return reply((await users.take(body.users, replace=body.replace))._asdict())

    @router.get("/users/{name:path}", response_model=User, responses=responses())
    async def read_user(request: Request, name: Name, who: Operator) -> Response:
        """One user. For the operator."""
        account = users.accounts.get(name)
        if account is None:
            raise NotFound(f"there is no user {name[:80]!r}")
        return tagged(request, shown(account))

    @router.patch("/users/{name:path}", response_model=User, responses=responses())
    async def change_user(name: Name, body: UserChange, who: Operator) -> Response:
        """Another password, or shut out or let in again. Live connections end within a second. For the operator."""
        kept = await _kept(body.password, body.hash)
        with _refusals():
            return reply(shown(await users.change(name, hash=kept, disabled=body.disabled)))

    @router.delete("/users/{name:path}", status_code=204, response_class=Response, responses=responses())
    async def delete_user(name: Name, who: Operator) -> Response:
        """Forget a user, who is shut out within a second, and the tokens. Sessions and messages stay. For the operator."""
        with _refusals():
            await users.delete(name)
        return Response(status_code=204)

    return router


async def _kept(password: str | None, hash: str | None) -> str | None:
    if password is not None and hash is not None:
        raise Unprocessable("hash: beside password, one too many")
    return hash if password is None else await asyncio.to_thread(hashed, password)


@contextmanager
def _refusals() -> Iterator[None]:
    """What keeps a change from being made, as the API tells it."""
    try:
        yield
    except NoSuchUser as error:
        raise NotFound(str(error)) from error
    except UserExists as error:
        raise Conflict(str(error)) from error
    except ValueError as error:
        raise Unprocessable(str(error)) from error
    except Undecided as error:
        raise Away("storage does not answer; what was asked may still happen", retry_after=5) from error
    except StorageError as error:
        raise Away(f"nothing was changed: {error}", retry_after=5) from error
