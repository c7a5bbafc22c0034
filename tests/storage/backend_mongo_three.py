"""The same by three writers."""

from __future__ import annotations

from tests.storage.backend_mongo_two import TwoWriters


class ThreeWriters(TwoWriters):
    name = "mongo-three"
    writers = 3
    repeats = True


BACKEND = ThreeWriters
