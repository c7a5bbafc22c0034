"""The process that makes the load: `python -m bench.generator '<Spec as JSON>'`.

Writes JSON lines to stdout: ``{"mark": name}`` and then waits for a line on stdin; at the end ``{"figures": {…}}`` or
``{"trouble": text}``.
"""

from __future__ import annotations

import gc
import json
import os
import sys

from bench.cluster.load import SHAPES as OF_CLUSTERS
from bench.load import SHAPES, Spec
from bench.many import many
from bench.polite import polite
from bench.reactor import LoadError, Reactor
from bench.storm import storm


def _mark(name: str) -> None:
    print(json.dumps({"mark": name}), flush=True)
    sys.stdin.readline()


def main(argument: str) -> None:
    """Run one shape once."""
    fields = json.loads(argument)
    core = fields.pop("core", None)
    if core is not None:
        os.sched_setaffinity(0, {core})
    spec = Spec(**fields)
    gc.freeze()
    gc.disable()
    try:
        shapes = SHAPES | OF_CLUSTERS | {"many": many, "polite": polite, "storm": storm}
        answer: dict[str, object] = {"figures": shapes[spec.shape](Reactor(spec.transport), spec, _mark)}
    except (LoadError, OSError) as error:
        answer = {"trouble": str(error)}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
