"""The measured figures as a file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.cluster.costs import Costs, Trips

MEASURED = Path(__file__).with_name("measured.json")
"""Those that come with the sources."""


class BadFigures(Exception):
    """A file of figures cannot be used; the text says why."""


@dataclass(frozen=True)
class Figures:
    """``machine``, ``server``, ``build``, ``command`` and ``others`` say where the rest comes from.

    ``table`` is what was printed with them; ``one_inbox``: groups a second by number of writers.
    """

    machine: str
    server: str
    build: str
    command: str
    costs: Costs
    trips: Trips
    table: str

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Figures:
        """Raises `BadFigures`."""
        try:
            given: dict[str, Any] = json.loads(path.read_text())
            costs, trips = Costs.read(given.pop("costs")), Trips(**given.pop("trips"))
            return cls(costs=costs, trips=trips, **given)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadFigures(
                f"{path}: {error}; make bench ARGS='--only cluster --figures {path}' writes such a file"
            ) from error
