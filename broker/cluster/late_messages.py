"""What a device published here, and no group has stored yet when another node has the device: it comes too late.

It was not acknowledged. So the client has sent it again, to the other node and in its order, but for QoS 0, which is lost with
the connection. Stored now, it would come behind what was published after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from broker.pipeline import Step
from storage.records import DeviceKey


class _Passed(Step):
    """Calls ``then`` once all that was submitted before is stored."""

    __slots__ = ("_then",)

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def done(self) -> None:
        self._then()


class LateMessages:
    """Devices that were lost, until what was submitted before that has passed. ``submit`` is the pipeline's."""

    def __init__(self, submit: Callable[[Step], None]) -> None:
        self._submit = submit
        self.below: dict[tuple[str, str], int] = {}
        """See `broker.publish_path.OtherNodes.late`."""
        self._new: list[DeviceKey] = []
        """Those that were lost since the step that waits was submitted."""
        self._waiting = False

    def refuse(self, key: DeviceKey, below: int) -> None:
        """Whatever a device published in its epochs below this one is not to be stored any more."""
        if below > self.below.get(key, 0):
            self.below[key] = below
            self._new.append(key)
            if not self._waiting:
                self._forget_in_turn()

    def _forget_in_turn(self) -> None:
        """One step for all that were lost meanwhile: a node that wakes may have lost all of its devices."""
        keys, self._new, self._waiting = self._new, [], True
        self._submit(_Passed(partial(self._forget, keys)))

    def _forget(self, keys: Sequence[DeviceKey]) -> None:
        lost_again = set(self._new)
        for key in keys:
            if key not in lost_again:
                self.below.pop(key, None)
        self._waiting = False
        if self._new:
            self._forget_in_turn()
