"""The optional compiled core: with TIDELINE_COMPILE=1, mypyc turns the modules that every message passes through into C, and
those that every client passes that connects: the accepted socket, TLS, WebSocket frames, CONNECT, access control, limits.

Everything else about the project is in pyproject.toml. The Python sources stay the one implementation: a build without a C
compiler is the same program, slower (`make compile`, docs/decisions/0004-a-compiled-core.md). TIDELINE_OPTIMIZE=1 has the C
compiler done in half the time, for those who only want to see that the tests pass.
"""

import os
import sys
from importlib.util import find_spec

from setuptools import setup

CORE = [
    "broker/access/access_control.py",
    "broker/access/authentication.py",
    "broker/access/bans.py",
    "broker/access/fair_queue.py",
    "broker/access/filter_tree.py",
    "broker/access/identity.py",
    "broker/access/openness.py",
    "broker/access/rule_set.py",
    "broker/access/session_info.py",
    "broker/begun.py",
    "broker/clock.py",
    "broker/commits.py",
    "broker/connection/connection.py",
    "broker/connection/handle_acks.py",
    "broker/connection/handle_connect.py",
    "broker/connection/handle_disconnect.py",
    "broker/connection/handle_publish.py",
    "broker/connection/node.py",
    "broker/counters.py",
    "broker/crowd.py",
    "broker/delivery/delivery.py",
    "broker/delivery/outbound.py",
    "broker/delivery/frames.py",
    "broker/delivery/recalled.py",
    "broker/delivery/machine.py",
    "broker/histogram.py",
    "broker/hooks/group.py",
    "broker/hooks/group_hooks.py",
    "broker/ids.py",
    "broker/limits/addresses.py",
    "broker/limits/buckets.py",
    "broker/limits/failures.py",
    "broker/limits/gate.py",
    "broker/limits/turns.py",
    "broker/net/accept.py",
    "broker/net/admission.py",
    "broker/net/listeners.py",
    "broker/net/stream.py",
    "broker/net/tls.py",
    "broker/net/websocket.py",
    "broker/net/websocket_frames.py",
    "broker/packets/bodies.py",
    "broker/packets/codes.py",
    "broker/packets/connect.py",
    "broker/packets/decoder.py",
    "broker/packets/encoder.py",
    "broker/packets/publish.py",
    "broker/packets/wire.py",
    "broker/pipeline.py",
    "broker/plugin_call.py",
    "broker/publication.py",
    "broker/publish_path.py",
    "broker/routing/trie.py",
    "broker/server.py",
    "broker/sessions/channel.py",
    "broker/sessions/cursor.py",
    "broker/sessions/deadlines.py",
    "broker/sessions/lifecycle.py",
    "broker/sessions/link.py",
    "broker/sessions/ordered.py",
    "broker/sessions/session.py",
    "broker/sessions/steps.py",
    "broker/sessions/timeline.py",
    "broker/sessions/wills.py",
    "broker/sessions/window.py",
    "plugins/kept.py",
    "plugins/timelines/participants.py",
    "storage/messages.py",
    "storage/sqlite/batch.py",
    "storage/sqlite/checkpoint.py",
    "storage/sqlite/free_space.py",
    "storage/sqlite/heads.py",
    "storage/sqlite/recent.py",
    "storage/sqlite/runs.py",
    "storage/sqlite/threads.py",
    "storage/sqlite/writer.py",
]
MONGO = [
    "storage/mongo/fast_encoding.py",
    "storage/mongo/names.py",
    "storage/mongo/plain_encoding.py",
    "storage/mongo/plan.py",
]
"""Also where the driver is: what they import has to be there."""


def _compiled() -> list[object]:
    from mypyc.build import mypycify

    modules = CORE + (MONGO if find_spec("pymongo") else [])
    given = {"opt_level": os.environ.get("TIDELINE_OPTIMIZE", "3"), "debug_level": "0", "target_dir": "build/c"}
    return list(mypycify(["--config-file", "pyproject.toml", *modules], **given))


_ASKED_ABOUT = {"egg_info", "dist_info"}
"""What pip asks before it builds. Neither answer hangs on the modules, and each would have mypyc go through all of them."""

wanted = os.environ.get("TIDELINE_COMPILE") == "1" and not _ASKED_ABOUT.intersection(sys.argv)
setup(ext_modules=_compiled() if wanted else [])
