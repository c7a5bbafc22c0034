"""The database's file before it is opened: whether it is there and can be one, and whose it is where that is in the way."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from storage.errors import StorageUnusable


def is_there(database: Path) -> bool:
    """Whether there is such a file. Raises `StorageUnusable` where this user may not know, as its folder is another's."""
    try:
        database.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StorageUnusable(f"{database} cannot be looked at: {error.strerror}{hint(error, database)}") from error
    return True


def refuse_empty(database: Path) -> None:
    """Raises `StorageUnusable` for a file of no bytes, which SQLite would take for a new database: ours are never so short."""
    if database.is_file() and not database.stat().st_size:
        raise StorageUnusable(
            f"{database} is empty (0 bytes), which no database of Tideline's ever is: restore it from a backup, "
            "or remove the file to begin anew"
        )


def hint(error: OSError, *files: Path) -> str:
    """Whose a file is that was refused, or the folder it would be in, and what to do; empty where it is no other user's."""
    if not isinstance(error, PermissionError):
        return ""
    folder = next((parent for parent in files[0].absolute().parents if _owner(parent) is not None), None)
    for path in (*files, *([folder] if folder else [])):
        owner = _owner(path)
        if owner is not None and owner != os.geteuid():
            whose, me = _user(owner), _user(os.geteuid())
            return f"; {path} belongs to {whose}, and this is {me}: run it as {whose}, or give it to {me} with chown"
    return ""


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except OSError:
        return None


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
