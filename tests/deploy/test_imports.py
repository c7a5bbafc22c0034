"""Every module can be imported, on any Python that we are installed on, with the versions of the lock; none warns."""

from __future__ import annotations

import subprocess
import sys

_IMPORT_ALL = """
import pkgutil, warnings
warnings.filterwarnings("error", category=DeprecationWarning, module="(broker|plugins|storage)([.]|$)")
warnings.filterwarnings("error", category=SyntaxWarning)
count = 0
for room in ("broker", "plugins", "storage"):
    for module in pkgutil.walk_packages(__import__(room).__path__, room + "."):
        if not module.name.endswith("__main__"):
            __import__(module.name)
            count += 1
print(count)
"""


def test_every_module_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORT_ALL], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 400
