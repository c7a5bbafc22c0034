"""``stock``: one broker, as users run it, with a listener of each kind, for other people's clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.stock import Stock


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    folder = tmp_path_factory.mktemp("stock")
    made = Stock(folder)
    with made.running():
        yield made


@pytest.fixture(params=[4, 5], ids=["v3.1.1", "v5"])
def version(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found
