"""Users and access rules for a broker that has any: a password file and an ACL file, both as Mosquitto has them, which Tideline
reads too. So both check the same of each message.

The user of a pair has the pair's number for a name. The topics that `bench.load.stream` uses end with it.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

_USERS = 10
_PASSWORD = "bench"
_ROUNDS = 101  # as mosquitto_passwd has them: what a login costs is not what is measured
_SALT = b"twelve bytes"

_RULES = """\
user operator
topic readwrite #
user 0
topic deny plant/locked/#
pattern readwrite devices/%c/#
pattern readwrite +/%u
pattern write telemetry/%u/%c/#
pattern read news/#
pattern deny devices/%c/secret
"""


def login(pair: int) -> tuple[str, str]:
    """What the clients of a pair log in with."""
    return str(pair), _PASSWORD


def write(home: Path) -> tuple[Path, Path]:
    """The two files, with ten users: of passwords, and of rules."""
    passwords, rules = home / "passwords", home / "acl"
    key = base64.b64encode(hashlib.pbkdf2_hmac("sha512", _PASSWORD.encode(), _SALT, _ROUNDS)).decode()
    kept = f"$7${_ROUNDS}${base64.b64encode(_SALT).decode()}${key}"
    passwords.write_text("".join(f"{name}:{kept}\n" for name in range(_USERS)))
    rules.write_text(_RULES)
    for path in (passwords, rules):
        path.chmod(0o600)
    return passwords, rules
