"""What config.yaml says of attachments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from broker.config import parse_duration, parse_size
from broker.errors import fault_of, refuse
from plugins.attachments.record import MOST_PIECES, PIECE
from plugins.jobs import Scheduled

LARGEST = MOST_PIECES * PIECE


@dataclass
class Bucket:
    """A bucket of S3, or of a service that speaks it. Without keys they are those of the environment, or of the machine."""

    bucket: str
    endpoint: str = ""
    """``https://host``, of another service than Amazon's."""
    region: str = "us-east-1"
    prefix: str = ""
    """What the names of the objects begin with."""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    timeout: int = 30
    """Seconds that one request may take."""

    def __post_init__(self) -> None:
        refuse(self._faults())

    def _faults(self) -> Iterator[str]:
        if not self.bucket:
            yield "bucket: must be the name of a bucket"
        parts = urlsplit(self.endpoint)
        if self.endpoint and (parts.scheme not in ("http", "https") or not parts.hostname):
            yield (f"endpoint {self.endpoint!r}: must be https://host, or empty for Amazon's")
        if bool(self.access_key) != bool(self.secret_key):
            yield ("access_key: give secret_key with it, or neither of them")
        if not 1 <= self.timeout <= 300:
            yield (f"timeout {self.timeout}: must be 1 to 300 seconds")


@dataclass
class Config:
    """Settings under ``plugins: attachments:``."""

    schedule: str | int | bool = "1h"
    """When what nobody needs any more is removed."""
    directory: str = ""
    """Where the bytes are; ``attachments`` beside the SQLite database where empty."""
    shared: bool = False
    """Whether all nodes of a cluster have this directory."""
    s3: Bucket | None = None
    """A bucket instead of a directory."""
    max_size: str | int = "1 GiB"
    """Of one attachment."""
    quota: str | int = "10 GiB"
    """Of all attachments of one user."""
    max_files: int = 10_000
    """Attachments of one user."""
    max_unfinished: int = 20
    """Attachments of one user that have not come to their end."""
    max_uploading: int = 32
    """Requests that bring bytes at once; each has up to 4 MiB in memory."""
    rate: str | int = 0
    """Bytes a second that one user may upload to one node; 0 is no limit."""
    keep: str | int = "1d"
    """How long what no message has is kept."""

    def __post_init__(self) -> None:
        refuse(self._faults())
        self.scheduled = Scheduled(self.schedule)
        self.largest = _bytes("max_size", self.max_size, 1, LARGEST)
        self.bytes_of_user = _bytes("quota", self.quota, 1, 1 << 60)
        self.bytes_a_second = _bytes("rate", self.rate, 0, 1 << 40)
        self.seconds_kept = _seconds(self.keep)

    def _faults(self) -> Iterator[str]:
        yield from fault_of(lambda: Scheduled(self.schedule))
        yield from fault_of(lambda: _bytes("max_size", self.max_size, 1, LARGEST))
        yield from fault_of(lambda: _bytes("quota", self.quota, 1, 1 << 60))
        yield from fault_of(lambda: _bytes("rate", self.rate, 0, 1 << 40))
        yield from fault_of(lambda: _seconds(self.keep))
        if self.directory and self.s3 is not None:
            yield "directory: leave it out where s3 says where the bytes are"
        for name, most in (("max_files", 100_000), ("max_unfinished", 1000), ("max_uploading", 1000)):
            if not 1 <= getattr(self, name) <= most:
                yield f"{name} {getattr(self, name)}: must be 1 to {most}"


def _bytes(name: str, value: str | int, least: int, most: int) -> int:
    try:
        size = parse_size(value)
    except ValueError:
        size = None
    if not isinstance(size, int) or isinstance(size, bool) or not least <= size <= most:
        raise ValueError(f'{name} {value!r}: must be a size of {least} to {most} bytes, such as "100 MiB"')
    return size


def _seconds(value: str | int) -> float:
    try:
        seconds = parse_duration(value)
    except ValueError:
        seconds = None
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 600 <= seconds <= 31_536_000:
        raise ValueError(f'keep {value!r}: must be a duration of 10 minutes to a year, such as "1d"')
    return float(seconds)
