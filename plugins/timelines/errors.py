"""What a caller did wrong, or has to wait for. Each is an HTTP status and a short name that programs can branch on.

Problem
├── Unprocessable    422  a value that cannot be
├── Forbidden        403  known, and not allowed
├── NotFound         404  not there, or not yours: the two are told apart to nobody
├── Conflict         409  it is not as the caller thinks it is
│   └── Resync       409  what the caller knows is of other data: it is to begin anew
├── TooLarge         413  more than is accepted
├── TooMany          429  later
└── Away             503  storage or search is away
"""

from __future__ import annotations


class Problem(Exception):
    """The root. ``detail`` is for people; ``extra`` goes into the answer beside it."""

    status = 500
    name = "internal"
    title = "internal error"

    def __init__(self, detail: str, *, retry_after: int = 0, **extra: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.extra = extra


class Unprocessable(Problem):
    status, name, title = 422, "invalid", "a value is not valid"


class Forbidden(Problem):
    status, name, title = 403, "forbidden", "not allowed"


class NotFound(Problem):
    status, name, title = 404, "not-found", "not found"


class Conflict(Problem):
    status, name, title = 409, "conflict", "conflict with the present state"


class Resync(Conflict):
    name, title = "resync", "what you know is of another copy of the data"


class TooLarge(Problem):
    status, name, title = 413, "too-large", "too large"


class TooMany(Problem):
    status, name, title = 429, "too-many", "too many at once"


class Away(Problem):
    status, name, title = 503, "unavailable", "not available now"
