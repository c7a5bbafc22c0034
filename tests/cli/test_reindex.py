"""`tideline reindex`, beside a broker that serves and without one."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from storage.factory import open_url
from tests.cli.processes import PATIENCE, ROOT, Api, Process, command, environment, ran, serving
from tests.search.meili_stub import MeiliStub
from tests.search.stores import Publisher
from tests.support.until import wait_until

SMALL_PAGES = {"TIDELINE__PLUGINS__SEARCH__BATCH": "20"}


def _command(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("reindex", *arguments),
        cwd=folder,
        env=environment(PYTHONPATH=ROOT, **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _done(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE * 2)
    return _told(subprocess.CompletedProcess(process.args, process.returncode, out, err))


def _told(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def _reindex(folder: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    return _told(ran(folder, "reindex", *arguments, **variables))


@pytest.fixture
async def filled(tmp_path: Path) -> Path:
    """A folder whose ./data has 400 messages, of which the first 50 are gone again."""
    storage = open_url(f"sqlite:///{tmp_path}/data/tideline.db")
    await storage.open()
    publisher = Publisher(storage)
    for start in range(0, 400, 100):
        await publisher.publish(*[f"common {n}" for n in range(start, start + 100)])
    await storage.prune_conversation("chat/a", 51)
    await storage.close()
    return tmp_path


@pytest.fixture
def api(filled: Path) -> Iterator[tuple[Process, Api]]:
    with serving(filled, **SMALL_PAGES) as broker:
        made = Api(broker, filled)
        yield broker, made
        made.client.close()


def test_a_running_broker_does_it_and_goes_on_meanwhile(filled: Path, api: tuple[Process, Api]) -> None:
    broker, made = api
    assert wait_until(lambda: made.search(q="common ")["total"] == 350)
    asking = _command(filled)
    published = 0
    while asking.poll() is None:
        last = made.post("chat/a", f"common live {published}")
        published += 1
        found = made.search(q="common ", wait_indexed=last["id"])
        assert found["total"] == 350 + published, "what is published meanwhile is found meanwhile"
    code, out, err = _done(asking)
    assert code == 0, err
    assert out.startswith("the search index was made again from ")
    assert "0%" in err
    assert made.search(q="common ", wait_indexed=last["id"])["total"] == 350 + published
    assert made.state()["rebuild"]["state"] == "done"
    broker.signal(signal.SIGTERM)
    assert broker.wait() == 0


def test_it_is_called_off_by_an_interrupt(filled: Path) -> None:
    assert _reindex(filled)[0] == 0
    slowly = {"TIDELINE__PLUGINS__SEARCH__BATCH": "1", "TIDELINE__PLUGINS__SEARCH__SHARE": "0.01"}
    with serving(filled, **slowly) as broker:
        made = Api(broker, filled)
        asking = _command(filled)
        wait_until(lambda: (made.state()["rebuild"] or {}).get("messages"), "it is on its way")
        asking.send_signal(signal.SIGINT)
        code, _, err = _done(asking)
        assert (code, made.state()["rebuild"]["state"]) == (1, "cancelled"), err
        assert made.search(q="common ")["total"] == 350
        made.client.close()
    assert _reindex(filled)[0] == 0


def test_without_a_broker_it_does_it_itself(filled: Path) -> None:
    code, out, err = _reindex(filled, **SMALL_PAGES)
    assert (code, out) == (0, "the search index was made again from 350 messages\n"), err
    assert "100%  350 messages" in err
    with serving(filled) as broker:
        made = Api(broker, filled)
        assert wait_until(lambda: made.search(q="common ")["total"] == 350)
        made.client.close()


def test_killed_on_the_way_it_leaves_the_index_as_it_was(filled: Path) -> None:
    assert _reindex(filled)[0] == 0
    killed = _command(filled, **SMALL_PAGES)
    assert killed.stderr is not None
    killed.stderr.readline()
    killed.kill()
    killed.communicate()
    with serving(filled) as broker:
        made = Api(broker, filled)
        assert wait_until(lambda: made.search(q="common ")["total"] == 350)
        made.client.close()
    assert _reindex(filled)[:2] == (0, "the search index was made again from 350 messages\n")


def test_a_broker_that_cannot_be_asked_is_told(filled: Path) -> None:
    with serving(filled, TIDELINE__PLUGINS__HTTP__OPERATOR_FILE='""') as broker:
        broker.port()
        code, _, err = _reindex(filled)
    assert code == 3
    assert "is served by another broker" in err
    assert "operator_file must be configured" in err


@pytest.fixture
def meilisearch() -> Iterator[MeiliStub]:
    with MeiliStub() as stub:
        yield stub


def _over(url: str, key: str = "a-key") -> dict[str, str]:
    return {
        "TIDELINE__PLUGINS__SEARCH__ENGINE": "meilisearch",
        "TIDELINE__PLUGINS__SEARCH__URL": url,
        "TIDELINE__PLUGINS__SEARCH__KEY": key,
    }


def _line(process: subprocess.Popen[str], beginning: str) -> str:
    """The next line of its standard error that begins like this."""
    assert process.stderr is not None
    return next(line for line in process.stderr if line.startswith(beginning))


def test_a_broker_whose_meilisearch_is_away_says_that_it_waits_and_for_what(filled: Path) -> None:
    with serving(filled, **_over("http://127.0.0.1:9")) as broker:
        made = Api(broker, filled)
        asking = _command(filled)
        told = _line(asking, "waiting: ")
        assert told == (
            "waiting: no Meilisearch server answers at http://127.0.0.1:9: start it, or correct `url` of the search plugin\n"
        )
        assert made.state()["rebuild"]["waiting"] == told.removeprefix("waiting: ").strip()
        asking.send_signal(signal.SIGINT)
        code, _, err = _done(asking)
        assert (code, made.state()["rebuild"]["waiting"]) == (1, None), err
        made.client.close()


@pytest.mark.parametrize("beside", [True, False])
def test_a_meilisearch_that_goes_away_on_the_way_is_waited_for_aloud(
    filled: Path, meilisearch: MeiliStub, beside: bool
) -> None:
    variables = _over(meilisearch.url, meilisearch.key)
    with serving(filled, **variables) if beside else nullcontext() as broker:
        if broker is not None:
            made = Api(broker, filled)
            wait_until(lambda: int(made.state()["position"], 16) == 400, "everything is indexed")
            made.client.close()
        meilisearch.flowing.clear()  # its first task waits
        asking = _command(filled, **variables)
        held = len(meilisearch.requests)
        wait_until(lambda: any(request.startswith("GET /tasks?") for request in meilisearch.requests[held:]))
        meilisearch.unavailable = True
        assert _line(asking, "waiting: ") == f"waiting: Meilisearch at {meilisearch.url} answers 503: look into its log\n"
        meilisearch.unavailable = False
        _line(asking, "going on")
        meilisearch.flowing.set()
        code, out, err = _done(asking)
        assert (code, out) == (0, "the search index was made again from 350 messages\n"), err


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TIDELINE__PLUGINS__SEARCH": "false"}, "no search plugin"),
        ({"TIDELINE__PLUGINS__PERSISTENCE__URL": "memory://"}, "stores in memory only"),
        ({"TIDELINE__PLUGINS__SEARCH__BATCH": "-1"}, "__BATCH): -1 must be 1 to 10000, or 0"),
        ({"TIDELINE__PLUGINS__SEARCH__PATH": "/proc/none/search.db"}, "search index /proc/none/search.db"),
    ],
)
def test_what_cannot_be_indexed_is_told(filled: Path, variables: dict[str, str], expected: str) -> None:
    code, out, err = _reindex(filled, **variables)
    assert code in (2, 3)
    assert expected in err
    assert out == ""
