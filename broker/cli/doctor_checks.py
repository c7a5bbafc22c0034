"""What `tideline doctor` looks at on this machine: each check tells what is well, and what will hurt before it does.

A check reads, and changes nothing; the time of an fsync is measured on a file of its own beside the data, which is removed.

Over 300 lines: one check after the other, each read by itself.
"""

from __future__ import annotations

import ctypes
import datetime
import os
import resource
import shutil
import ssl
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography import x509

from broker.build import compiled
from broker.config import Settings, parse_size, socket_path, split_bind
from broker.net import RESERVE

_UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
_SYNCS = 25
_SLOW_SYNC, _HARDLY_A_SYNC = 0.010, 0.00002
_CERTIFICATE_DAYS = 30
_PLENTY = 10  # times the low-water mark
_LOW_WATER = 64 << 20
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "ceph", "glusterfs"}
_IN_MEMORY = {"tmpfs", "ramfs"}
_GOVERNOR = "/sys/devices/system/cpu/cpuidle/current_governor"
_POLLED = "/sys/module/haltpoll/parameters/guest_halt_poll_ns"
_UNSYNCHRONISED = 0x40
"""STA_UNSYNC of adjtimex(2)."""


class Finding(NamedTuple):
    """``level``: ok, warn (it will hurt some day) or fail (it hurts now). ``text`` says what to do unless it is ok."""

    level: Literal["ok", "warn", "fail"]
    subject: str
    text: str


Check = Callable[[Settings], Iterator[Finding]]


def files_of(settings: Settings) -> Iterator[tuple[str, Path]]:
    """(setting, path) of the files that the broker writes, or of the folder of those."""
    scheme, _, rest = settings.storage_url.partition("://")
    if scheme == "sqlite":
        yield "persistence.url", Path(rest.removeprefix("/"))
    for name, option, default in (
        ("search", "path", "data/search.db"),
        ("http", "operator_file", "data/operator.json"),
    ):
        options = settings.plugins.get(name)
        if (
            options is not None
            and options.get("engine", "embedded") != "meilisearch"
            and (path := options.get(option, default))
        ):
            path = Path(str(path))
            yield f"plugins.{name}.{option}", path.with_suffix(".tantivy") if options.get("engine") == "tantivy" else path
    if folder := (settings.plugins.get("attachments") or {}).get("directory"):
        yield "plugins.attachments.directory", Path(str(folder)) / "attachment"


def python(settings: Settings) -> Iterator[Finding]:
    """The interpreter, and whether the core is compiled."""
    version = ".".join(map(str, sys.version_info[:3]))
    core = "compiled core" if compiled() else "core in pure Python (make compile makes it two to three times as fast)"
    yield Finding("ok", "python", f"{version}, {core}")


def open_files(settings: Settings) -> Iterator[Finding]:
    """Whether the system lets as many sockets be open as the listeners may have connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max((listener.max_connections for listener in settings.listeners), default=0) + RESERVE
    if hard in (resource.RLIM_INFINITY, -1) or hard >= wanted:
        yield Finding("ok", "open files", f"up to {'any number' if hard in (resource.RLIM_INFINITY, -1) else hard}")
    else:
        yield Finding(
            "warn",
            "open files",
            f"at most {hard} for this user, and the largest max_connections needs {wanted}: raise it "
            "(LimitNOFILE= of systemd, ulimit -Hn of a shell), or lower max_connections",
        )


def backlog(settings: Settings) -> Iterator[Finding]:
    """Clients that come back all at once wait in the kernel's queue, which drops what is beyond."""
    with suppress(OSError, ValueError):
        queue = int(Path("/proc/sys/net/core/somaxconn").read_text())
        if queue < 1024:
            yield Finding("warn", "connect queue", f"{queue} clients: set net.core.somaxconn to 1024 or more")
        else:
            yield Finding("ok", "connect queue", f"{queue} clients")


def memory(settings: Settings) -> Iterator[Finding]:
    """Whether what the settings let the broker keep in memory fits into it."""
    limits = settings.limits
    bounded = limits.pending_bytes + limits.recent_bytes + limits.retained_cache + (256 << 20)
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        available = min(available, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    text = f"{available >> 20} MiB; the broker, its caches and buffers take up to some {bounded >> 20} MiB, beside connections"
    if bounded > available // 2:
        yield Finding("warn", "memory", f"{text}: lower limits.retained_cache and limits.recent_bytes, or give it more")
    else:
        yield Finding("ok", "memory", text)


def wake_ups(settings: Settings) -> Iterator[Finding]:
    """Whether a virtual processor polls a moment before it halts: a message's wake-ups are dear where it does not."""
    with suppress(OSError, ValueError):
        if Path(_GOVERNOR).read_text().strip() != "haltpoll":
            return
        polled = int(Path(_POLLED).read_text())
        if polled:
            yield Finding("ok", "wake-ups", f"an idle processor polls for up to {polled / 1000:g} µs before it halts")
        else:
            yield Finding(
                "ok",
                "wake-ups",
                f"an idle processor halts at once: 200000 in {_POLLED} has a lone message acknowledged in little more than "
                "half of the time, for processor time of the host",
            )


def clock(settings: Settings) -> Iterator[Finding]:
    """Whether somebody keeps the clock right: times of messages, tokens and certificates go by it."""
    buffer = ctypes.create_string_buffer(512)  # struct timex, modes = 0: only read
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    except (OSError, AttributeError):
        return
    status = int.from_bytes(buffer.raw[40:44], sys.byteorder) if sys.maxsize > 1 << 32 else 0
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    if state >= 0 and not status & _UNSYNCHRONISED:
        yield Finding("ok", "clock", f"{now}, kept by a time service")
    elif state >= 0:
        yield Finding("warn", "clock", f"{now}; no time service is known to keep it: run chrony or systemd-timesyncd")


def folders(settings: Settings) -> Iterator[Finding]:
    """Whether the files can be written, on what they lie, how much room there is, and whether others can read them."""
    seen = set()
    for name, path in files_of(settings):
        folder = _existing(path.absolute().parent)
        if not os.access(folder, os.W_OK | os.X_OK):
            yield Finding(
                "fail",
                name,
                f"{path}: {folder} may not be written by this user (uid {os.geteuid()}): make {path.parent} for it",
            )
            continue
        if path.exists():
            mode = stat.S_IMODE(path.stat().st_mode)
            right, private = (os.R_OK | os.W_OK | os.X_OK, 700) if path.is_dir() else (os.R_OK | os.W_OK, 600)
            if not os.access(path, right):
                yield Finding("fail", name, f"{path} belongs to another user: run as the one who runs the broker")
            elif mode & 0o077:
                yield Finding("warn", name, f"{path} can be read by others (mode {mode:04o}): chmod {private} {path}")
        if folder in seen:
            continue
        seen.add(folder)
        yield from _file_system(name, folder)
        yield from _room(settings, name, folder)
        if name == "persistence.url":
            yield from _fsync(folder)


def _existing(folder: Path) -> Path:
    """What is there of a folder's path, as far as this user may look."""
    return next(part for part in (folder, *folder.parents) if os.path.exists(part))


def _file_system(name: str, folder: Path) -> Iterator[Finding]:
    kind = _kind_of(folder)
    if kind in _IN_MEMORY:
        yield Finding("fail", name, f"{folder} is in memory ({kind}): everything is lost when the machine restarts")
    elif kind in _NETWORK:
        yield Finding(
            "fail", name, f"{folder} is on {kind}, where SQLite's locks and fsync cannot be relied on: use a local disk"
        )


def _kind_of(folder: Path) -> str:
    """The file system that a folder is on; empty where the system does not say."""
    best, kind = "", ""
    with suppress(OSError):
        for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
            _, mount, found, *_ = line.split(" ")
            mount = mount.replace("\\040", " ")
            if len(mount) >= len(best) and folder.is_relative_to(mount):
                best, kind = mount, found
    return kind


def _room(settings: Settings, name: str, folder: Path) -> Iterator[Finding]:
    free, whole = shutil.disk_usage(folder).free, shutil.disk_usage(folder).total
    persistence = settings.plugins.get("persistence") or {}
    mark = parse_size(persistence.get("low_water_bytes", _LOW_WATER))
    low = mark if isinstance(mark, int) else _LOW_WATER
    text = f"{folder}: {_amount(free)} of {_amount(whole)} free"
    if free < low:
        yield Finding("fail", "disk", f"{text}, less than low_water_bytes: nobody is acknowledged; make room")
    elif free < max(low * _PLENTY, whole // 20):
        yield Finding("warn", "disk", f"{text}: make room, or let retention remove what is old (docs/jobs.md)")
    else:
        yield Finding("ok", "disk", text)


def _amount(size: int) -> str:
    unit = next((unit for unit in ("GiB", "MiB") if size >= _UNITS[unit]), "KiB")
    return f"{size / _UNITS[unit]:.1f} {unit}"


def _fsync(folder: Path) -> Iterator[Finding]:
    """How long a group's fsync takes: every acknowledgement waits for one."""
    times = []
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-", buffering=0) as file:
            for _ in range(_SYNCS):
                file.write(b"x" * 4096)
                began = time.perf_counter()
                os.fsync(file.fileno())
                times.append(time.perf_counter() - began)
    except OSError as error:
        yield Finding("fail", "fsync", f"{folder} cannot be written: {error.strerror}; nobody is acknowledged until it can")
        return
    times.sort()
    middle, worst = times[len(times) // 2], times[-1]
    text = f"{middle * 1000:.2f} ms in the middle, {worst * 1000:.2f} ms at worst, of {_SYNCS} in {folder}"
    if middle > _SLOW_SYNC:
        yield Finding("warn", "fsync", f"{text}: every acknowledgement waits for one; use a faster disk")
    elif middle < _HARDLY_A_SYNC:
        yield Finding("warn", "fsync", f"{text}: no disk is that fast; a power cut may lose what it says it has")
    else:
        yield Finding("ok", "fsync", text)


def secrets(settings: Settings) -> Iterator[Finding]:
    """Files with secrets that others can read."""
    for where, path in _secret_files(settings):
        with suppress(OSError):
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o007:
                yield Finding("fail", where, f"{path} can be read by everybody (mode {mode:04o}): chmod o-rwx {path}")
            else:
                yield Finding("ok", where, f"{path} is not everybody's (mode {mode:04o})")


def _secret_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    for listener in settings.listeners:
        if listener.tls is not None:
            yield f"listeners.{listener.name}.tls.keyfile", listener.tls.keyfile or listener.tls.certfile
    for name, options in settings.plugins.items():
        for option in ("keyfile", "file", "password_file"):
            if isinstance(value := options.get(option), str) and value:
                yield f"plugins.{name}.{option}", Path(value)


def certificates(settings: Settings) -> Iterator[Finding]:
    """When the certificates end."""
    for where, path in _certificate_files(settings):
        try:
            ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
        except (OSError, ValueError, ssl.SSLError) as error:
            yield Finding("fail", where, f"{path} is no certificate that can be read ({type(error).__name__})")
            continue
        left = ends - datetime.datetime.now(datetime.UTC)
        text = f"{path} is valid until {ends:%Y-%m-%d}"
        if left <= datetime.timedelta():
            yield Finding("fail", where, f"{path} ended on {ends:%Y-%m-%d}: renew it, then tideline reload")
        elif left < datetime.timedelta(days=_CERTIFICATE_DAYS):
            yield Finding("warn", where, f"{text}, {left.days} more days: renew it, then tideline reload")
        else:
            yield Finding("ok", where, text)


def _certificate_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    for listener in settings.listeners:
        if listener.tls is not None:
            yield f"listeners.{listener.name}.tls.certfile", listener.tls.certfile
    for name, options in settings.plugins.items():
        if isinstance(value := options.get("certfile"), str) and value:
            yield f"plugins.{name}.certfile", Path(value)


def ports(settings: Settings) -> Iterator[Finding]:
    """Ports that only an administrator may listen on."""
    first = 1024
    with suppress(OSError, ValueError):
        first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    binds = [(f"listeners.{listener.name}", listener.bind) for listener in settings.listeners]
    http = settings.plugins.get("http") or {}
    binds += [(f"plugins.http.{option}", str(http[option])) for option in ("bind", "node_bind") if http.get(option)]
    for name, bind in binds:
        port = 0 if socket_path(bind) is not None else split_bind(bind)[1]
        if 0 < port < first and os.geteuid() != 0:
            yield Finding(
                "warn",
                name,
                f"port {port} is below {first}: AmbientCapabilities=CAP_NET_BIND_SERVICE of systemd, with PrivateUsers=false, "
                "lets the broker have it",
            )


CHECKS: tuple[Check, ...] = (python, open_files, backlog, memory, wake_ups, clock, folders, secrets, certificates, ports)
