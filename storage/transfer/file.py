"""The file of an export: gzip over lines of JSON, of which the last one says how many there are and what they hash to.

So a file that was cut off, or changed, is noticed before anything of it counts. It has its name once it is whole.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from storage.private import make_file
from storage.transfer.kinds import Record, from_json, to_json

FORMAT = 1
_PAGE = 1000
_LEVEL = 3
"""Of compression: half the size of level 1's result on text, and three times as fast as level 9."""


class DamagedExport(Exception):
    """The file is no export, is cut off, or was changed."""


class About(NamedTuple):
    """An export's first line. ``storage``: of which kind it was made; ``epoch``: the data's; ``records``: how many there are,
    about; ``made``: when it began (ms)."""

    storage: str
    epoch: str
    records: int
    made: int


class ExportWriter:
    """Writes to a file beside ``path``, which gets its name by `finish`; left without it, nothing is there. Raises OSError."""

    def __init__(self, path: Path, about: About) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._part.unlink(missing_ok=True)
        make_file(self._part)
        self._raw = self._part.open("wb")
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=self._raw, mtime=0)
        self._digest = hashlib.sha256()
        self._counts: Counter[str] = Counter()
        self._line({"tideline-export": FORMAT, **about._asdict()})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._raw.close()
        self._part.unlink(missing_ok=True)

    def write(self, records: Sequence[Record]) -> None:
        """Add records."""
        for record in records:
            self._counts[record[0]] += 1
            self._line(to_json(record))

    def finish(self) -> dict[str, int]:
        """Durable, and under its name; how many records of each kind it has."""
        counts = dict(self._counts)
        self._line({"end": counts, "sha256": self._digest.hexdigest()})
        self._gzip.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()
        self._part.rename(self._path)
        sync_folder(self._path.parent)
        return counts

    def _line(self, value: Any) -> None:
        data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self._digest.update(data)
        self._gzip.write(data)


class ExportReader:
    """Reads an export. What `records` gives counts only once it has come to its end. Raises `DamagedExport` and OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._file = gzip.open(path, "rb")  # noqa: SIM115 - closed by `__exit__`
        try:
            self.about = self._about()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def records(self) -> Iterator[list[Record]]:
        """Every record, in pages; the last page is given only where the whole file is as it was written."""
        counts: Counter[str] = Counter()
        page: list[Record] = []
        while True:
            before = self._digest.hexdigest
            line, value = self._line()
            if isinstance(value, dict):
                if value != {"end": dict(counts), "sha256": before()}:
                    raise DamagedExport(f"{self._path} was changed since it was written: its end tells another checksum")
                yield page
                return
            self._digest.update(line)
            try:
                record = from_json(value)
            except ValueError as error:
                raise DamagedExport(f"{self._path}: {error}") from None
            counts[record[0]] += 1
            page.append(record)
            if len(page) > _PAGE:
                yield page[:_PAGE]
                page = page[_PAGE:]

    def _about(self) -> About:
        line, value = self._line()
        self._digest.update(line)
        if not isinstance(value, dict) or "tideline-export" not in value:
            raise DamagedExport(f"{self._path} is no export of Tideline's")
        if (version := value.pop("tideline-export")) != FORMAT:
            raise DamagedExport(f"{self._path} has format {version}, this version of tideline knows {FORMAT}")
        try:
            return About(**value)
        except TypeError:
            raise DamagedExport(f"{self._path}: its first line is not as it should be") from None

    def _line(self) -> tuple[bytes, Any]:
        try:
            line = self._file.readline()
            if not line:
                raise EOFError
            return line, json.loads(line)
        except EOFError:
            raise DamagedExport(f"{self._path} is cut off: its end is missing") from None
        except gzip.BadGzipFile as error:
            raise DamagedExport(f"{self._path} is no export of Tideline's, or is damaged ({error})") from None
        except (zlib.error, ValueError) as error:
            raise DamagedExport(f"{self._path} is damaged ({error})") from None


def sync_file(path: Path) -> None:
    """Make what a file holds durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
