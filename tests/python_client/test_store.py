"""The Python client's local copy belongs to one client at a time, until that is gone."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tideline_client import Client, Outgoing, StoreInUse
from tideline_client.store import Store

from tests.support.laws_process import ROOT

OTHER = """
import sys
sys.path.insert(0, sys.argv[2])
from tideline_client import Client
client = Client("localhost", device="phone", store=sys.argv[1])
client.send("chat/a", "hello")
print("open", flush=True)
sys.stdin.read()
"""


def test_the_file_is_one_process_s_until_that_ends_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "phone.db"
    said = f"store {str(path)!r}: another client has it open: stop that one, or give this one a file of its own"
    command = (sys.executable, "-c", OTHER, str(path), str(ROOT / "clients" / "python"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"open\n"
            with pytest.raises(StoreInUse, match=f"^{re.escape(said)}$"):
                Client("localhost", device="phone", store=path)
        finally:
            other.kill()
    client = Client("localhost", device="phone", store=path)
    assert [message.payload for message in client.outbox()] == [b"hello"]
    client.stop()


def test_the_file_is_one_client_s_within_a_process(tmp_path: Path) -> None:
    path = tmp_path / "phone.db"
    first = Store(path)
    with pytest.raises(StoreInUse):
        Store(path)
    first.put(Outgoing("key", "chat/a", b"hello", ()))  # it goes on
    first.close()
    second = Store(path)
    assert [message.key for message in second.waiting()] == ["key"]
    second.close()


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    diary = tmp_path / "diary.txt"
    diary.write_text("dear diary")
    for path, words in ((tmp_path / "nowhere" / "phone.db", "unable to open database file"), (diary, "file is not a database")):
        with pytest.raises(sqlite3.DatabaseError, match=f"^{re.escape(f'store {str(path)!r}: {words}')}$"):
            Store(path)
    assert diary.read_text() == "dear diary"
