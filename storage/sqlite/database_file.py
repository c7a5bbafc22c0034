"""The database's file before it is opened: whether it is there and can be one, and whose it is where that is in the way."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from storage.errors import StorageUnusable

_EFFECTIVE = os.access in os.supports_effective_ids


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


def refuse_unfit(database: Path) -> None:
    """Raises `StorageUnusable` where it, or what is beside it, is no file that this user may read and write. SQLite says the
    same of all of that: unable to open."""
    for path in (database, *(database.with_name(database.name + beside) for beside in ("-wal", "-shm"))):
        if not path.exists():
            continue
        if not path.is_file():
            what = "a directory" if path.is_dir() else "no regular file"
            raise StorageUnusable(f"{path} is {what}, where a file of the database belongs: name another, or move it away")
        if not os.access(path, os.R_OK, effective_ids=_EFFECTIVE):
            raise StorageUnusable(f"{path} cannot be read: Permission denied{hint(PermissionError(), path)}")
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            raise StorageUnusable(f"{path} is on a file system that is read-only: mount it so that it can be written")
        if not os.access(path, os.W_OK, effective_ids=_EFFECTIVE):
            raise StorageUnusable(f"{path} cannot be written: Permission denied{hint(PermissionError(), path)}")


def hint(error: OSError, *files: Path) -> str:
    """Why a file was refused, or the folder it would be in, and what to do; empty where that cannot be told."""
    if isinstance(error, NotADirectoryError):
        wrong = next((parent for parent in files[0].absolute().parents if parent.exists()), None)
        return f"; {wrong} is a file, where a folder belongs" if wrong is not None and not wrong.is_dir() else ""
    if isinstance(error, IsADirectoryError):
        return f"; {files[0]} is a directory: move it away"
    if not isinstance(error, PermissionError):
        return ""
    folder = next((parent for parent in files[0].absolute().parents if _owner(parent) is not None), None)
    for path in (*files, *([folder] if folder else [])):
        owner = _owner(path)
        if owner is not None and owner != os.geteuid():
            whose, me = _user(owner), _user(os.geteuid())
            return f"; {path} belongs to {whose}, and this is {me}: run it as {whose}, or give it to {me} with chown"
        if owner is not None:
            rights = "rwx" if path.is_dir() else "rw"
            mode, needed = path.stat().st_mode & 0o777, 0o700 if path.is_dir() else 0o600
            if mode & needed != needed:
                return f"; {path} has the mode {mode:04o}: chmod u+{rights} {path}"
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
