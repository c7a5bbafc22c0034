"""Runs a command that compiles the core, with a C compiler for setuptools: `python compiler.py FOLDER COMMAND...`

It is the system's, where there is one. Else it is zig's, which PyPI has as the package ziglang: in FOLDER, apart from what
runs (`make compile`), in the version of requirements/zig.txt.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

LOCK = Path(__file__).with_name("requirements") / "zig.txt"
ZIG = "cc -mcpu=baseline -fno-sanitize=undefined"
"""By itself zig compiles for the very processor that it runs on, and what it makes dies on an older one."""


def of_system() -> str | None:
    """What CC says; else what this Python was built with, or another that is there."""
    if asked := os.environ.get("CC"):
        if not _there(asked):
            raise SystemExit(f"CC={asked} is no command that is there: name another, or leave CC out")
        return asked
    return next(filter(_there, (sysconfig.get_config_var("CC") or "cc", "cc", "gcc", "clang")), None)


def _there(command: str) -> bool:
    return shutil.which(shlex.split(command)[0]) is not None


def of_pypi(folder: Path) -> str:
    """Zig's, which is fetched where the folder is not there yet, or holds another than the lock names."""
    fetched = folder / LOCK.name
    locked = LOCK.read_text()
    if not fetched.exists() or fetched.read_text() != locked:
        print(f"no C compiler was found: fetching zig's from PyPI into {folder} (100 MB, 400 when unpacked)", flush=True)
        unfinished = folder.with_name(folder.name + ".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
        done = subprocess.run([*pip, "--target", str(unfinished), "--requirement", str(LOCK)], check=False)
        if done.returncode:
            raise SystemExit("no C compiler was found, nor could zig's be fetched: install one (Debian: apt install gcc)")
        (unfinished / LOCK.name).write_text(locked)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    return f"{shlex.quote(str(folder.resolve() / 'ziglang' / 'zig'))} {ZIG}"


def environment(folder: Path) -> dict[str, str]:
    """What tells setuptools which compiler it is to use; ends with what to do where it cannot compile."""
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise SystemExit(
            f"Python's headers are missing ({header}): install them (Debian: apt install python3-dev; Fedora: dnf install "
            "python3-devel), or take a Python that comes with them, such as uv's, pyenv's, or that of the image python:3"
        )
    if command := of_system():
        return {"CC": command}
    if sys.platform != "linux":
        raise SystemExit("no C compiler was found: install one (macOS: xcode-select --install)")
    command = of_pypi(folder)
    # Zig's linker does not know all options that this Python was linked with.
    return {"CC": command, "LDSHARED": f"{command} -shared", "ZIG_GLOBAL_CACHE_DIR": str(folder.resolve() / "cache")}


def main(folder: str, *command: str) -> None:
    """Become the command."""
    wanted = environment(Path(folder))
    print(f"compiling the core with {wanted['CC']} (some minutes)", flush=True)
    os.execvpe(command[0], command, {**os.environ, **wanted, "TIDELINE_COMPILE": "1"})


if __name__ == "__main__":
    main(*sys.argv[1:])
