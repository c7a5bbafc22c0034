"""Files as Mosquitto 2.0.11 has them: hashes that its mosquitto_passwd made, and an acl_file.

tests/interop/test_mosquitto_acl.py compares more of both with a mosquitto that runs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.access.filter_tree import Caller
from broker.access.mosquitto_acl import MosquittoAcl
from broker.access.password_file import Passwords, read
from broker.access.rule_set import RuleSet, Source, decide
from broker.access.rules import AccessRule

PASSWORDS = """\
# made by mosquitto_passwd; carol's with -H sha512
alice:$7$101$1dr7DBVeW1ZZIJHe$TRgc+kKlYkkrVtQMgIVroEVtPoab2aaCVZLiI+dDERthaqdW8CzqtzOorN6/vNPzCbI96RFdsKXnE+Q+ymLYQw==
bob:$7$101$4qYwt2cJ9HE587AL$QKBr0VzInKmd2QoyqwSbdW8WaOPN5GNZItoVWngt6up4Yar6JsXqHDJ/WOUtpe5ku/CLJrE9WJfIIdP/ozpi7g==
carol:$6$ka0tS3SRAOQ0IbGr$UGlIuhrHHhSyuZ53hfsHogBk7zhRL33TVriMmBvneh1vZgo89c2Tj5xjwEkZQVh6BY/gKRMvS/MFlO0woAOLig==
"""


def test_what_mosquitto_passwd_made_lets_in(tmp_path: Path) -> None:
    file = tmp_path / "pw"
    file.write_text(PASSWORDS)
    found = Passwords(read(file))
    assert [found.verify(*who) for who in (("alice", "secret"), ("bob", "bobpw"), ("carol", "cärol pw"))] == [True] * 3
    assert [found.verify(*who) for who in (("alice", "bobpw"), ("bob", ""), ("carol", "x"), ("dave", "secret"))] == [False] * 4


@pytest.mark.parametrize(
    ("hash", "problem"),
    [
        ("$7$0$1dr7DBVeW1ZZIJHe$" + 86 * "A" + "==", "is cut off or damaged"),
        ("$7$99999999$1dr7DBVeW1ZZIJHe$" + 86 * "A" + "==", "is cut off or damaged"),
        ("$7$101$1dr7DBVeW1ZZIJHe$TRgc", "is cut off or damaged"),
        ("$7$101$", "is cut off or damaged"),
        ("$6$ka0tS3SRAOQ0IbGr$UGlI", "is SHA-512 crypt, or a damaged one of mosquitto_passwd"),
        ("$6$saltstring$" + 86 * "a", "is SHA-512 crypt, or a damaged one of mosquitto_passwd"),
    ],
)
def test_a_hash_that_cannot_be_checked_is_told(tmp_path: Path, hash: str, problem: str) -> None:
    file = tmp_path / "pw"
    file.write_text(f"{PASSWORDS}dave:{hash}\n")
    with pytest.raises(ValueError, match=f"line 5: the hash of user 'dave' {problem}") as told:
        read(file)
    assert hash not in str(told.value)


ACL = """\
# clients without a user name
topic read public/#
topic write public/in

user alice
topic readwrite home/#
topic deny home/secret/#
topic   read   with space/#
topic bare
user bob
topic write up
user alice
topic read late

pattern read   device/%c/down
pattern write device/%c/up
pattern readwrite user/%u/#
pattern deny user/+/locked
pattern deny home/secret/never
"""


def acl_of(folder: Path, text: str) -> MosquittoAcl:
    file = folder / "acl"
    file.write_text(text)
    return MosquittoAcl(file)


ALICE, BOB, NOBODY = Caller("alice", "a"), Caller("bob", "b"), Caller(None, "n")


@pytest.mark.parametrize(
    ("caller", "action", "topic", "expected"),
    [
        (NOBODY, "receive", "public/x", True),
        (NOBODY, "publish", "public/x", False),
        (NOBODY, "publish", "public/in", True),
        (ALICE, "receive", "public/x", False),  # lines above the first user are not for users
        (ALICE, "publish", "home/x", True),
        (ALICE, "history", "home/x", True),
        (ALICE, "search", "home", True),
        (ALICE, "publish", "home/secret/x", False),
        (ALICE, "receive", "home/secret", False),
        (ALICE, "receive", "with space/x", True),
        (ALICE, "publish", "bare", True),
        (ALICE, "receive", "late", True),
        (ALICE, "publish", "late", False),
        (BOB, "publish", "up", True),
        (BOB, "receive", "up", False),
        (BOB, "subscribe", "#", True),  # subscribing is; receiving is asked about
        (BOB, "receive", "device/b/down", True),
        (BOB, "receive", "device/a/down", False),
        (BOB, "publish", "user/bob/x/y", True),
        (BOB, "publish", "user/bob/locked", False),
        (NOBODY, "publish", "user//x", False),
        (NOBODY, "publish", "device/n/up", True),
        (Caller("+", "x"), "publish", "device/x/up", False),  # a dangerous name fits no pattern
        (Caller("x", "#"), "publish", "user/x/y", False),
        (Caller("a/b", "x"), "publish", "user/a/b/y", False),  # narrower than Mosquitto
        (Caller("$SYS", "x"), "receive", "$SYS/x", False),
        (Caller("dave", "d"), "publish", "home/x", False),
        (Caller("dave", "d"), "receive", "public/x", False),
    ],
)
def test_an_acl_file(tmp_path: Path, caller: Caller, action: str, topic: str, expected: bool) -> None:
    assert decide([acl_of(tmp_path, ACL)], caller, action, topic).allowed is expected


def test_what_a_user_may_by_topic_lines_no_pattern_takes_back_but_a_rule_of_ours_does(tmp_path: Path) -> None:
    acl = acl_of(tmp_path, "user alice\ntopic home/#\npattern deny home/x\n")
    assert (
        decide([acl], ALICE, "publish", "home/x").why
        == f"allowed by {tmp_path}/acl, line 2: topic readwrite home/# (user alice)"
    )
    ours = RuleSet([("rule", AccessRule(deny="publish", topics="home/x")), ("more", AccessRule(allow="all", topics="more"))])
    both: list[Source] = [ours, acl]
    for sources in (both, both[::-1]):
        assert decide(sources, ALICE, "publish", "home/x").why == "denied by rule: deny publish on home/x"
    assert decide([ours, acl], ALICE, "receive", "home/x").allowed
    assert decide([ours, acl], ALICE, "publish", "more").allowed


def test_an_empty_file_denies_all_but_subscribing(tmp_path: Path) -> None:
    acl = acl_of(tmp_path, "\n# nothing\n")
    assert [decide([acl], ALICE, action, "x").allowed for action in ("publish", "subscribe", "receive")] == [False, True, False]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("topics read a", "'topics read a' must be user, topic or pattern, and what it is about"),
        ("user", "'user' must be user, topic or pattern, and what it is about"),
        ("topic", "'topic' must be user, topic or pattern"),
        ("topic raed a", "'raed' must be read, write, readwrite or deny"),
        ("topic read a/#/b", "topic filter 'a/#/b': '#' must be the whole last level"),
        ("pattern deny a+", "topic filter 'a+': '+' must be a whole level"),
    ],
)
def test_a_line_that_mosquitto_would_not_read_is_told(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(ValueError) as told:
        acl_of(tmp_path, f"# one\n\n{line}\ntopic read a\n")
    assert str(told.value).startswith(f"{tmp_path}/acl, line 3: {problem}")
